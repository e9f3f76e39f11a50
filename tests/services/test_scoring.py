"""Predictions of many tasks: how many calls their heads take, and that each gets what it gets alone."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from threading import Event
from typing import Any

import pytest
import torch
from torch import Tensor

from app.backbones import build as build_backbone
from app.core.episode import TaskState
from app.engine.errors import NobodyWaits
from app.engine.scheduler import Engine
from app.engine.state_cache import NotPinned, Pin, StateCache
from app.engine.work import EngineSettings, Work
from app.learners import build
from app.services import scoring
from app.services.heads import AnyHead, probabilities
from app.services.scoring import ScoreHead, score_together

CPU = torch.device("cpu")

TOLERANCE = {"rtol": 0, "atol": 2e-6}
"""Of a probability in float32."""


class Counted:
    """A learner, with the sizes of what its `score` was called on: (tasks, rows), or (rows,) for a task by itself."""

    def __init__(self, name: str = "protonet") -> None:
        self.learner: AnyHead = build(name, build_backbone("identity", {}), {}).eval()
        self.calls: list[tuple[int, ...]] = []
        score = self.learner.score

        def counting(state: TaskState, features: Tensor) -> Tensor:
            self.calls.append(tuple(features.shape[:-1]))
            return score(state, features)

        self.learner.score = counting  # type: ignore[method-assign]

    @torch.no_grad()
    def state(self, seed: int, way: int = 3, dim: int = 8) -> TaskState:
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(2 * way, dim, generator=generator)
        return self.learner.fit(rows, torch.arange(way).repeat(2), way)


def rows(count: int, seed: int = 0, dim: int = 8) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(1000 + seed))


async def with_pins(states: Sequence[TaskState], then: Callable[[list[Pin]], Any]) -> Any:
    """What `then` gives for pins of these states in a cache; it may be awaited."""
    cache = StateCache(2**30)
    async with AsyncExitStack() as held:
        pins = [
            await held.enter_async_context(cache.pinned(index, lambda state=state: state))
            for index, state in enumerate(states)
        ]
        found = then(pins)
        return await found if asyncio.iscoroutine(found) else found


def scored(counted: Counted, states: Sequence[TaskState], which: Sequence[int], parts: Sequence[Tensor]) -> list[Any]:
    """What works find, of which each asks the state of its number; and what each finds alone, is checked."""

    @torch.no_grad()
    def then(pins: list[Pin]) -> list[Any]:
        found = score_together([ScoreHead(counted.learner, pins[one]) for one in which], parts)
        calls = list(counted.calls)
        for one, own, answer in zip(which, parts, found, strict=True):
            assert isinstance(answer, Tensor)
            torch.testing.assert_close(answer, probabilities(counted.learner, states[one], own), **TOLERANCE)
        counted.calls = calls
        return found

    found: list[Any] = asyncio.run(with_pins(states, then))
    return found


@pytest.mark.parametrize("name", ["protonet", "ridge", "matching", "mahalanobis"])
def test_different_tasks_are_scored_in_one_call(name):
    counted = Counted(name)
    states = [counted.state(seed) for seed in range(7)]
    scored(counted, states, range(7), [rows(1, seed) for seed in range(7)])
    assert counted.calls == [(7, 1)]


def test_the_works_of_one_task_are_rows_of_one_state():
    counted = Counted()
    scored(counted, [counted.state(0)], [0, 0, 0], [rows(1), rows(4, 1), rows(2, 2)])
    assert counted.calls == [(7,)]


def test_works_of_several_rows_and_several_works_of_a_task_go_together():
    counted = Counted()
    states = [counted.state(seed) for seed in range(4)]
    parts = [rows(count, count) for count in (2, 1, 5, 3, 1, 4)]
    scored(counted, states, [0, 1, 0, 2, 3, 2], parts)
    assert counted.calls == [(16, 1)]


def test_what_is_large_together_is_scored_in_pieces(monkeypatch):
    counted = Counted()
    states = [counted.state(seed) for seed in range(7)]
    numbers = sum(one.numel() for one in states[0].values())
    monkeypatch.setattr(scoring, "AT_ONCE", 3 * numbers)
    scored(counted, states, range(7), [rows(1, seed) for seed in range(7)])
    assert counted.calls == [(3, 1), (3, 1), (1,)]


def test_a_task_with_many_rows_has_a_call_of_its_own():
    counted = Counted()
    states = [counted.state(seed) for seed in range(4)]
    parts = [rows(count, count) for count in (1, 60, 2, 1, 40)]
    scored(counted, states, [0, 1, 2, 3, 1], parts)
    assert counted.calls == [(100,), (4, 1)]


def test_a_large_state_is_not_copied_for_several_rows():
    counted = Counted("ridge")
    states = [counted.state(seed, way=5, dim=2000) for seed in range(4)]
    scored(counted, states, range(4), [rows(count, count, dim=2000) for count in (1, 3, 1, 1)])
    assert counted.calls == [(3,), (3, 1)]


def test_large_states_are_scored_one_by_one():
    counted = Counted("ridge")
    states = [counted.state(seed, way=20, dim=5000) for seed in range(3)]
    scored(counted, states, range(3), [rows(1, seed, dim=5000) for seed in range(3)])
    assert counted.calls == [(1,)] * 3


def test_a_learner_that_does_not_stack_is_called_once_a_task():
    counted = Counted()
    counted.learner.stacks = False  # type: ignore[misc]
    states = [counted.state(seed) for seed in range(2)]
    scored(counted, states, [0, 1, 0], [rows(1), rows(2, 1), rows(3, 2)])
    assert counted.calls == [(4,), (2,)]


def test_a_head_whose_caller_has_gone_fails_alone():
    counted = Counted()
    states = [counted.state(seed) for seed in range(3)]

    async def then(pins: list[Pin]) -> list[Any]:
        heads = [ScoreHead(counted.learner, pin) for pin in pins]
        await pins[1].__aexit__(None, None, None)
        with pytest.raises(NotPinned):
            _ = pins[1].form
        return score_together(heads, [rows(1, seed) for seed in range(3)])

    found = asyncio.run(with_pins(states, then))
    assert isinstance(found[1], NobodyWaits)
    assert [one.shape for one in (found[0], found[2])] == [(1, 3), (1, 3)]
    assert counted.calls == [(2, 1)]


def test_where_all_have_gone_nothing_is_scored():
    counted = Counted()

    async def then(pins: list[Pin]) -> list[Any]:
        await pins[0].__aexit__(None, None, None)
        return score_together([ScoreHead(counted.learner, pins[0])], [rows(1)])

    (found,) = asyncio.run(with_pins([counted.state(0)], then))
    assert isinstance(found, NobodyWaits)
    assert counted.calls == []


def test_an_engine_groups_tasks_by_learner_and_by_the_shapes_of_their_states():
    first, other = Counted(), Counted("ridge")
    states = [
        *(first.state(seed) for seed in range(3)),
        *(first.state(seed, way=5) for seed in range(2)),
        *(other.state(seed) for seed in range(2)),
    ]
    owners = [first] * 5 + [other] * 2
    engine = Engine({"a": build_backbone("identity", {})}, device=CPU, settings=EngineSettings())

    async def then(pins: list[Pin]) -> list[Any]:
        heads = [ScoreHead(owner.learner, pin) for owner, pin in zip(owners, pins, strict=True)]
        works = [
            Work(backbone="a", inputs=rows(1, index), head=head, task=str(index), together=head.together())
            for index, head in enumerate(heads)
        ]
        entered, gate = Event(), Event()
        before = Work(backbone="a", inputs=torch.empty(0), head=lambda _: (entered.set(), gate.wait(20)))
        first_of_all = asyncio.ensure_future(engine.run(before))
        assert await asyncio.to_thread(entered.wait, 20)
        asked = [asyncio.ensure_future(engine.run(work)) for work in works]
        await asyncio.sleep(0)
        gate.set()
        await first_of_all
        return [outcome.value for outcome in await asyncio.gather(*asked)]

    engine.start()
    try:
        found = asyncio.run(with_pins(states, then))
    finally:
        engine.stop(20.0)
    assert (first.calls, other.calls) == ([(3, 1), (2, 1)], [(2, 1)])
    for index, (owner, state) in enumerate(zip(owners, states, strict=True)):
        with torch.no_grad():
            torch.testing.assert_close(found[index], probabilities(owner.learner, state, rows(1, index)), **TOLERANCE)
