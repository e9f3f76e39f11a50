"""How an engine starts, drains and ends."""

import asyncio

import pytest
import torch

from app.core.errors import UnknownName
from app.engine.errors import Draining, EngineDown
from app.engine.scheduler import Engine
from app.engine.work import EngineSettings, Work


def test_stopping_finishes_what_is_queued_and_refuses_the_rest(bench, play) -> None:
    one = bench()

    async def scene() -> None:
        first = await one.occupy()
        tasks = await one.queue(one.work(1), one.work(2))
        stopping = asyncio.create_task(asyncio.to_thread(one.engine.stop, 20.0))
        await asyncio.to_thread(one.until, lambda: not one.engine.health().ok)
        assert one.engine.health().reason == "The engine is shutting down."
        with pytest.raises(Draining):
            await one.engine.run(one.work(3))
        one.open()
        await stopping
        await asyncio.gather(first, *tasks)

    play(scene())
    assert one.backbone.rows == [-1, 1, 2]


def test_stopping_answers_what_it_cannot_finish_in_time(bench, play) -> None:
    one = bench()

    async def scene() -> None:
        first = await one.occupy()
        (second,) = await one.queue(one.work(1))
        await asyncio.to_thread(one.engine.stop, 0.0)
        for task in (first, second):
            with pytest.raises(Draining):
                await task

    play(scene())
    one.engine.stop(0.0)


def test_an_engine_that_was_not_started_says_so(play) -> None:
    engine = Engine({}, device=torch.device("cpu"), settings=EngineSettings())
    assert not engine.health().ok
    with pytest.raises(UnknownName):
        play(engine.run(Work(backbone="a", inputs=torch.ones(1, 1), head=len)))
    engine.stop(0.0)


def test_works_sent_before_the_start_are_refused(bench, play) -> None:
    backbone = bench().backbone
    engine = Engine({"a": backbone}, device=torch.device("cpu"))
    with pytest.raises(EngineDown):
        play(engine.run(Work(backbone="a", inputs=torch.ones(1, 1), head=len)))


@pytest.mark.parametrize(
    "wrong", [{"queue_examples": 0}, {"hang_timeout_s": -1.0}, {"state_cache_bytes": -1}, {"embedding_cache_bytes": -1}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        EngineSettings(**wrong)
