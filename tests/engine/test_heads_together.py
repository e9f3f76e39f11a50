"""Heavy heads that run in one call: who may, how many, and what becomes of failures."""

import asyncio
import time
from dataclasses import replace
from threading import Event

import pytest
import torch

from app.core.errors import DeadlinePassed, Invalid
from app.core.heartbeat import beat_now
from app.engine.work import Together


class Calls:
    """Runs heads together, and remembers how many at a time."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def run(self, heads, features):
        self.sizes.append(len(heads))
        beat_now()
        return [head(own) for head, own in zip(heads, features, strict=True)]

    def joint(self, key="a", most=8) -> Together:
        return Together(key, most, self.run)


def heavy(one, first, joint, head=lambda features: features[:, 0].tolist()):
    return replace(one.work(first, head=head), head_examples=1, together=joint)


def _all(bench, play, one, works):
    async def scene():
        first = await one.occupy()
        tasks = await one.queue(*works)
        one.open()
        await first
        return await asyncio.gather(*(task for task in tasks), return_exceptions=True)

    return [getattr(found, "value", found) for found in play(scene())]


def test_heads_that_wait_together_run_in_one_call_and_each_gets_its_own(bench, play) -> None:
    one, calls = bench(), Calls()
    found = _all(bench, play, one, [heavy(one, number, calls.joint()) for number in (1, 2, 3)])
    assert found == [[2], [4], [6]]
    assert calls.sizes == [3]


def test_no_more_run_in_one_call_than_may(bench, play) -> None:
    one, calls = bench(), Calls()
    found = _all(bench, play, one, [heavy(one, number, calls.joint(most=2)) for number in range(5)])
    assert found == [[0], [2], [4], [6], [8]]
    assert calls.sizes == [2, 2]  # the last one is alone, and needs no call for several


def test_heads_of_different_keys_do_not_run_together(bench, play) -> None:
    one, calls = bench(), Calls()
    works = [heavy(one, number, calls.joint("even" if number % 2 == 0 else "odd")) for number in range(4)]
    assert _all(bench, play, one, works) == [[0], [2], [4], [6]]
    assert calls.sizes == [2, 2]


def test_what_is_wrong_with_one_fails_it_alone(bench, play) -> None:
    one = bench()

    def run(heads, features):
        return [Invalid("not this one") if float(own[0, 0]) == 4 else "fine" for own in features]

    found = _all(bench, play, one, [heavy(one, number, Together("a", 8, run)) for number in (1, 2, 3)])
    assert [found[0], found[2]] == ["fine", "fine"]
    assert isinstance(found[1], Invalid)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("out of memory"), RuntimeError("no one's")])
def test_a_call_that_fails_is_halved_until_each_runs_alone(bench, play, error) -> None:
    one, sizes = bench(), []

    def run(heads, features):
        sizes.append(len(heads))
        if len(heads) > 2:
            raise error
        return [head(own) for head, own in zip(heads, features, strict=True)]

    found = _all(bench, play, one, [heavy(one, number, Together("a", 8, run)) for number in range(5)])
    assert found == [[0], [2], [4], [6], [8]]
    assert sizes == [5, 2, 3, 2]
    assert len(one.backbone.rows) == 6  # what was embedded is kept


def test_a_head_at_fault_fails_alone_also_among_several(bench, play) -> None:
    one = bench()

    def bad(_: torch.Tensor) -> None:
        raise ValueError("at fault")

    calls = Calls()
    works = [heavy(one, 1, calls.joint()), heavy(one, 2, calls.joint(), bad), heavy(one, 3, calls.joint())]
    found = _all(bench, play, one, works)
    assert [found[0], found[2]] == [[2], [6]]
    assert found[1].code == "engine-failure"


def test_one_that_nobody_waits_for_does_not_end_the_others(bench, play) -> None:
    one, calls = bench(), Calls()
    entered, gone = Event(), Event()

    def slow(heads, features):
        entered.set()
        assert gone.wait(20)
        return calls.run(heads, features)

    async def scene():
        first = await one.occupy()
        leaving, staying = await one.queue(*(heavy(one, number, Together("a", 8, slow)) for number in (1, 2)))
        one.open()
        await first
        assert await asyncio.to_thread(entered.wait, 20)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        gone.set()
        return (await staying).value

    assert play(scene()) == [4]
    assert calls.sizes == [2]


def test_when_all_deadlines_have_passed_the_call_ends_at_its_next_beat(bench, play) -> None:
    one, beats = bench(), []

    def endless(heads, features):
        while True:
            time.sleep(0.001)
            beat_now()
            beats.append(1)

    def alone(_: torch.Tensor) -> None:
        beat_now()

    end_s = time.monotonic() + 0.3
    works = [replace(heavy(one, number, Together("a", 8, endless), alone), deadline_s=end_s) for number in (1, 2)]
    found = _all(bench, play, one, works)
    assert beats
    assert all(isinstance(error, DeadlinePassed) for error in found)
    assert one.engine.health().restarts == 0
