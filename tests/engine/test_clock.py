"""When a batch's answers are handed out: at once on a CPU, after one wait where the device computes elsewhere."""

import asyncio
import dataclasses
import time

import pytest
import torch

from app.engine import device as device_module
from app.engine.clock import CpuClock, CudaClock, clock_of
from app.engine.errors import Draining, EngineDown
from app.engine.work import Together

DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
    ),
]


class LateClock:
    """Behaves as that of an accelerator: nothing is known before the next `settle`."""

    def __init__(self) -> None:
        self.waiting = []
        self.waits = 0
        self.answering = True

    def mark(self):
        return time.monotonic()

    def when_known(self, since, then):
        self.waiting.append((time.monotonic() - since, then))

    def settle(self):
        if self.waiting:
            self.waits += 1
        waiting, self.waiting = self.waiting, []
        for seconds, then in waiting:
            then(seconds)

    def answers(self):
        return self.answering


@pytest.fixture
def late(monkeypatch) -> LateClock:
    clock = LateClock()
    monkeypatch.setattr(device_module, "clock_of", lambda _: clock)
    return clock


def _answers(bench, play, works):
    async def scene():
        first = await bench.occupy()
        tasks = await bench.queue(*works)
        bench.open()
        return [outcome.value for outcome in await asyncio.gather(first, *tasks)]

    return play(scene())


def test_a_batch_of_many_tasks_waits_for_its_device_once(bench, play, late) -> None:
    one = bench()
    works = [one.work(number) for number in range(1, 6)]
    assert _answers(one, play, works) == [[-2.0], [2.0], [4.0], [6.0], [8.0], [10.0]]
    assert late.waits == len(one.recorder.batches) == 2
    assert len(one.recorder.works) == 6


def test_nothing_is_answered_before_the_wait(bench, play, late) -> None:
    one, order = bench(), []
    settle = late.settle
    late.settle = lambda: (order.append("wait") if late.waiting else None, settle())[1]
    works = [one.work(number, head=lambda _: order.append("head")) for number in (1, 2)]
    _answers(one, play, works)
    assert order == ["wait", "head", "head", "wait"]


def test_the_seconds_of_backbone_and_heads_are_told_after_the_wait(bench, play, late) -> None:
    one = bench()
    _answers(one, play, [one.work(1)])
    assert [report.examples for report in one.recorder.batches] == [1, 1]
    one.until(lambda: one.recorder.heads == ["a", "a"])


def test_a_failure_of_one_is_no_failure_of_the_others_that_wait_with_it(bench, play, late) -> None:
    one = bench()
    one.backbone.poison[2.0] = ValueError("poison")

    async def scene():
        first = await one.occupy()
        tasks = await one.queue(one.work(1), one.work(2), one.work(3))
        one.open()
        await first
        return await asyncio.gather(*tasks, return_exceptions=True)

    found = play(scene())
    assert [found[0].value, found[2].value] == [[2.0], [6.0]]
    assert found[1].code == "engine-failure"


def test_a_device_that_fails_while_it_is_waited_for_is_replaced_and_nobody_hangs(bench, play, late) -> None:
    one = bench()

    def broken():
        if late.waiting:
            late.waiting = []
            late.settle = settle
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    settle, late.settle = late.settle, broken
    with pytest.raises(EngineDown):
        play(one.engine.run(one.work(1)))
    assert play(one.engine.run(one.work(2))).value == [4.0]
    assert one.engine.health().restarts == 1


def test_a_device_that_is_lost_is_not_tried_again_and_the_process_is_told(bench, play, late) -> None:
    lost, one = [], None
    one = bench(on_lost=lambda: lost.append(one.engine.health()))
    late.answering = False

    def broken():
        if late.waiting:
            late.waiting = []
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    late.settle = broken

    async def scene():
        first = await one.occupy()
        tasks = await one.queue(one.work(1), one.work(2))
        one.open()
        return await asyncio.gather(first, *tasks, return_exceptions=True)

    assert {type(error) for error in play(scene())} == {EngineDown}, "all that waited were told"
    one.until(lambda: lost)
    with pytest.raises(Draining):
        play(one.engine.run(one.work(3)))
    (health,) = lost
    assert not health.ok
    assert "lost" in health.reason
    assert one.engine.health() == health, "it stays so"
    assert one.recorder.restarts == []


def test_predictions_are_answered_before_the_fits_of_their_batch_are_asked_for(bench, play, late) -> None:
    one, order = bench(), []
    settle = late.settle
    late.settle = lambda: (order.append("wait") if late.waiting else None, settle())[1]

    def scored(features):
        order.append("score")
        return [0.0]

    scoring = Together(
        "score", 8, lambda heads, features: [head(own) for head, own in zip(heads, features, strict=True)]
    )
    works = [
        one.work(1, head=lambda _: order.append("fit")),
        dataclasses.replace(one.work(2), head=scored, together=scoring),
        dataclasses.replace(one.work(3), head=scored, together=scoring),
    ]
    _answers(one, play, works)
    assert order == ["wait", "score", "score", "wait", "fit", "wait"]


@pytest.mark.parametrize("name", DEVICES)
def test_a_clock_tells_the_seconds_of_what_was_asked_for(name) -> None:
    device = torch.device(name)
    clock, told = clock_of(device), []
    since = clock.mark()
    product = torch.ones(64, 64, device=device) @ torch.ones(64, 64, device=device)
    clock.when_known(since, told.append)
    clock.when_known(clock.mark(), told.append)
    clock.settle()
    assert len(told) == 2
    assert told[0] >= told[1] >= 0
    assert float(product[0, 0]) == 64
    clock.settle()
    assert len(told) == 2
    assert clock.answers()


def test_each_kind_of_device_has_its_clock() -> None:
    assert isinstance(clock_of(torch.device("cpu")), CpuClock)
    assert isinstance(clock_of(torch.device("cuda", 0)), CudaClock)
