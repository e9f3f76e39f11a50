"""Heads that score with stored states: those of many tasks in one call."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, TypeAlias, final

import torch
from jaxtyping import Float
from torch import Tensor

from app.core.episode import Features, TaskState
from app.core.heartbeat import beat_now
from app.engine.copies import to_host
from app.engine.errors import NobodyWaits
from app.engine.state_cache import NotPinned, Pin
from app.engine.work import Together
from app.services.heads import AnyHead, probabilities

MOST: Final = 4096
"""Heads in one call: more than any batch has."""

AT_ONCE: Final = 131_072
"""Numbers of states, one state a row, that a call on a CPU takes: of more, calls cost less than the copies."""

AT_ONCE_ELSEWHERE: Final = 4_194_304
"""On an accelerator memory is the bound: a call costs as much as some million numbers."""

FEW_ROWS: Final = 16
"""A task with more has a call of its own, which then costs less than a copy of its state for each."""

COPIES: Final = 8
"""So large a part of what a call takes may be copies for the rows of one task."""

Answer: TypeAlias = Float[Tensor, "_ way"]

SomeRows: TypeAlias = Float[Tensor, "_ dim"]
"""One of several tensors of features, each with rows of its own number."""


@final
class ScoreHead:
    """The confidence of every label for the rows of one work, by a task's pinned state."""

    def __init__(self, learner: AnyHead, entry: Pin) -> None:
        self.learner = learner
        self.entry = entry

    def __call__(self, features: Features) -> Answer:
        """Score the rows."""
        return probabilities(self.learner, self.entry.state(features.device), features)

    def together(self) -> Together[Answer]:
        """Whom it may run with: same learner, and states of the same shapes."""
        return Together((self.learner, self.entry.form), MOST, score_together)


def score_together(heads: Sequence[ScoreHead], features: Sequence[SomeRows]) -> list[Answer | Exception]:
    """What each head would find, up to rounding, in as few calls as pay.

    A head whose state is not pinned any more gets `NobodyWaits`: its caller has gone.
    """
    learner, device = heads[0].learner, features[0].device
    found: list[Answer | Exception] = [NobodyWaits()] * len(heads)
    states: dict[int, TaskState] = {}
    tasks: dict[int, list[int]] = {}
    for index, head in enumerate(heads):
        try:
            state = head.entry.state(device)
        except NotPinned:
            continue
        states[index] = state
        tasks.setdefault(id(state), []).append(index)
    at_once = AT_ONCE if device.type == "cpu" else AT_ONCE_ELSEWHERE
    calls = _calls(list(tasks.values()), states, features, at_once) if learner.stacks else tasks.values()
    for works in calls:
        beat_now()
        parts = [features[index] for index in works]
        answers = _scored(learner, [states[index] for index in works], parts)
        for index, answer in zip(works, answers, strict=True):
            found[index] = answer
    return found


def _calls(
    tasks: Sequence[list[int]], states: Mapping[int, TaskState], features: Sequence[SomeRows], at_once: int
) -> Iterator[list[int]]:
    """The works of each call: those of one task, or of many with a copy of its state for each row."""
    if len(tasks) < 2:
        yield from tasks
        return
    numbers = sum(tensor.numel() for tensor in states[tasks[0][0]].values())
    together: list[int] = []
    room = at_once
    for works in tasks:
        rows = sum([features[index].shape[0] for index in works])
        copied = numbers * rows
        if rows > FEW_ROWS or copied * (2 if rows < 2 else COPIES) > at_once:
            yield works
            continue
        if copied > room:
            yield together
            together, room = [], at_once
        together += works
        room -= copied
    if together:
        yield together


def _scored(learner: AnyHead, states: Sequence[TaskState], parts: Sequence[SomeRows]) -> Sequence[Answer]:
    """The probabilities of each work's rows, on the CPU."""
    rows = parts[0] if len(parts) == 1 else torch.cat(list(parts))
    sizes = [part.shape[0] for part in parts]
    if all(state is states[0] for state in states):
        found = probabilities(learner, states[0], rows)
    else:
        each = [state for state, size in zip(states, sizes, strict=True) for _ in range(size)]
        found = to_host(learner.score_each(each, rows[:, None])[:, 0].softmax(-1))
    return found.split_with_sizes(sizes)
