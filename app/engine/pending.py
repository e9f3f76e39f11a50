"""Work that is under way in the engine, and the pieces it is computed in."""

import asyncio
import time
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias, final

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from app.backbones._base import Backbone
from app.core.episode import Features
from app.engine.mailbox import Mailbox
from app.engine.work import Outcome, Work

BatchKey: TypeAlias = tuple[str, tuple[int, ...] | None, torch.dtype]
"""Works may share a forward when these agree: backbone, sizes of the axes where those are not padded, type."""


def batch_key(work: Work[Any], backbone: Backbone) -> BatchKey:
    """The key of a work; without rows it needs no forward and fits with all of its kind.

    Raises: `ValueError` for inputs of another shape than the backbone takes. It is asked here for all executors: a
    library may answer what it refuses with what it answered last.
    """
    inputs = work.inputs
    if not inputs.shape[0]:  # `len` of a tensor takes longer
        return (work.backbone, None, inputs.dtype)
    sizes, shape = tuple(inputs.shape[1:]), backbone.input_shape
    if len(sizes) != len(shape) or any(wanted not in (None, size) for size, wanted in zip(sizes, shape, strict=True)):
        raise ValueError(f"inputs of shape {tuple(inputs.shape)} for a backbone of {shape}")
    return (work.backbone, () if backbone.pads else sizes, inputs.dtype)


@final
@dataclass(eq=False, slots=True)
class Pending:
    """A work with the caller that waits for it. `taken` of its cost was handed out in batches, its rows first."""

    work: Work[Any]
    key: BatchKey
    mailbox: Mailbox
    future: "asyncio.Future[Outcome[Any]]"
    queued_at_s: float = field(default_factory=time.monotonic)
    taken: int = 0
    device_s: float = 0.0
    finished: bool = False
    """Succeeded, failed or dropped: nothing of it is to be computed any more."""
    parts: list[Features] = field(default_factory=list)
    cost: int = field(init=False)

    def __post_init__(self) -> None:
        self.cost = self.work.cost_examples

    @property
    def task(self) -> Hashable:
        """Whose share of a batch it takes: its task's, or one of its own."""
        return self if self.work.task is None else self.work.task

    @property
    def left(self) -> int:
        """What is still to be handed out of its cost; a work without any counts as one example."""
        return self.cost - self.taken

    def expired(self, now_s: float) -> bool:
        """Is its deadline over?"""
        return self.work.deadline_s is not None and now_s >= self.work.deadline_s

    def features(self) -> Features:
        """All embeddings, in the order of the inputs; gives them away."""
        whole = self.parts[0] if len(self.parts) == 1 else torch.cat(self.parts)
        self.parts = []  # not before: there may be no memory to join them
        return whole

    def outcome(self, value: object) -> Outcome[Any]:
        """A result with the seconds that it took until now."""
        queue_s = max(0.0, time.monotonic() - self.queued_at_s - self.device_s)
        return Outcome(value, queue_s, self.device_s, self.cost)

    def succeed(self, outcome: Outcome[Any]) -> None:
        """Hand the result to the caller."""
        self.finished = True
        self.mailbox.post(self.future, outcome, None)

    def fail(self, error: Exception) -> None:
        """Hand an error to the caller."""
        self.finished = True
        self.parts = []
        self.mailbox.post(self.future, None, error)


@final
class Slice(NamedTuple):
    """Examples `start` to `stop` of one work's cost, to be computed in one batch.

    The work's rows come first; what its head costs follows, and is paid before the head runs.
    """

    pending: Pending
    start: int
    stop: int

    @property
    def inputs(self) -> Shaped[Tensor, "_ ..."]:
        """The rows in it, on the CPU; maybe none."""
        return self.pending.work.inputs[self.start : self.stop]

    @property
    def rows(self) -> int:
        """How many rows are in it."""
        return max(0, min(self.stop, self.pending.work.inputs.shape[0]) - self.start)


def side_by_side(works: Iterable[Pending]) -> list[list[Pending]]:
    """Works whose heads run in one call, as many as may, in the order of the first of each; the others alone."""
    groups: dict[Hashable, list[Pending]] = {}
    for one in works:
        joint = one.work.together
        groups.setdefault(one if joint is None else joint, []).append(one)
    found: list[list[Pending]] = []
    for group in groups.values():
        joint = group[0].work.together
        most = len(group) if joint is None else joint.most
        found += [group[start : start + most] for start in range(0, len(group), most)]
    return found


def deal_out(features: Features, slices: Sequence[Slice]) -> None:
    """Give each work the embeddings of its rows."""
    at = 0
    for one in slices:
        one.pending.parts.append(features[at : at + one.rows])
        at += one.rows


def give_back(works: Iterable[Pending], features: Iterable[Float[Tensor, "_ dim"]]) -> None:
    """Undo `Pending.features` for the first works, as many as there are features."""
    for one, own in zip(works, features, strict=False):
        one.parts = [own]
