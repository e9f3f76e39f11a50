"""Light heads that score run once a batch, on the rows of all works that may go together."""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from app.core.errors import Invalid
from app.engine.work import Together, Work


class Doubling:
    """Doubles and counts; it does not take a row of `poison`, and refuses one of `bad`."""

    def __init__(self, poison: float | None = None, bad: float = math.nan) -> None:
        self.rows: list[int] = []
        self.joint: list[int] = []
        self.poison = poison
        self.bad = bad

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        self.rows.append(len(features))
        if self.poison is not None and bool((features[:, 0] == self.poison).any()):
            raise RuntimeError("this row is poison")
        return features[:, :1] * 2

    def together(self, heads: Sequence[Any], features: Sequence[torch.Tensor]) -> list[Any]:
        self.joint.append(len(heads))
        found = self(torch.cat(list(features))).split([len(one) for one in features])
        return [Invalid("no") if bool((one == self.bad).any()) else one for one in found]


def alike(one: Any, head: Doubling, key: str, *firsts: float, most: int = 100) -> Work[Any]:
    return replace(one.work(*firsts, head=head), together=Together(key, most, head.together))


async def answers(one: Any, *works: Work[Any]) -> list[Any]:
    """Of works that share a batch."""
    first = await one.occupy()
    tasks = await one.queue(*works)
    one.open()
    await first
    return list(await asyncio.gather(*tasks, return_exceptions=True))


def test_heads_of_one_key_run_in_one_call(bench, play) -> None:
    one, first, second = bench(), Doubling(), Doubling()
    works = [alike(one, first, "a", 1), alike(one, second, "b", 2, 3), alike(one, first, "a", 4, 5)]
    found = play(answers(one, *works))
    assert [outcome.value.flatten().tolist() for outcome in found] == [[4], [8, 12], [16, 20]]
    assert (first.joint, first.rows) == ([2], [3])
    assert (second.joint, second.rows) == ([], [2])  # alone it needs no call for several
    assert one.recorder.works == ["a"] * 4


def test_without_a_key_each_head_runs_for_itself(bench, play) -> None:
    one, head = bench(), Doubling()
    play(answers(one, one.work(1, head=head), one.work(2, head=head)))
    assert head.rows == [1, 1]


def test_no_more_light_heads_run_in_one_call_than_may(bench, play) -> None:
    one, head = bench(), Doubling()
    found = play(answers(one, *(alike(one, head, "a", first, most=2) for first in range(5))))
    assert [outcome.value.item() for outcome in found] == [0, 4, 8, 12, 16]
    assert head.rows == [2, 2, 1]


def test_where_it_fails_only_the_work_at_fault_does(bench, play) -> None:
    one, head = bench(), Doubling(poison=6.0)
    found = play(answers(one, *(alike(one, head, "a", first) for first in (1, 3, 2, 4))))
    assert isinstance(found[1], Exception)
    assert [found[at].value.tolist() for at in (0, 2, 3)] == [[[4.0]], [[8.0]], [[16.0]]]
    assert head.rows == [4, 2, 1, 1, 2]
    assert len(one.backbone.rows) == 5  # what was embedded is kept


def test_an_error_that_is_one_head_s_own_costs_the_others_no_second_call(bench, play) -> None:
    one, head = bench(), Doubling(bad=12.0)
    found = play(answers(one, *(alike(one, head, "a", first) for first in (1, 3, 2))))
    assert isinstance(found[1], Invalid)
    assert [found[at].value.tolist() for at in (0, 2)] == [[[4.0]], [[8.0]]]
    assert head.rows == [3]


def test_whoever_left_is_left_out(bench, play) -> None:
    one, head = bench(), Doubling()

    async def scene() -> None:
        first = await one.occupy()
        gone, stays = await one.queue(alike(one, head, "a", 1), alike(one, head, "a", 2))
        gone.cancel()
        await asyncio.wait({gone})
        one.open()
        await first
        assert (await stays).value.tolist() == [[8.0]]

    play(scene())
    assert head.rows == [1]


def test_a_loop_rings_once_for_works_that_come_together(bench, play, monkeypatch) -> None:
    one = bench()
    rings = []
    ring = one.engine._queue.ring
    monkeypatch.setattr(one.engine._queue, "ring", lambda: (rings.append(1), ring()))

    async def scene() -> None:
        await asyncio.gather(*(one.engine.run(one.work(first)) for first in range(20)))

    play(scene())
    assert len(rings) == 1
