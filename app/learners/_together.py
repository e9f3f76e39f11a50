"""Adaptations of weights side by side: one `torch.func.vmap` over tasks of equal shapes, in place of a loop over them.

The answers are those of the loop but for rounding. It pays where the forward of one task leaves the device idle, which
on a CPU it does not.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor

from app.core.episode import Support, TaskState
from app.core.heartbeat import beat_now
from app.learners._inner_loop import Diverged, side_by_side
from app.learners._select import HeldOut, held_out, split_of
from app.learners._weights import WeightLearner


def adapt_together(learner: WeightLearner[Any], supports: Sequence[Support]) -> list[TaskState | Diverged]:
    """`learner.adapt` of each, in evaluation mode; who diverges has that in place of a state, and harms no other.

    The labels may lie on the CPU. Raises: `ValueError` for sets of several shapes, and for a learner that is in
    training or cannot run side by side.
    """
    if learner.training or not learner.vmaps:
        raise ValueError(f"{type(learner).__name__} adapts alone here")
    if len({(one.way, one.inputs.shape) for one in supports}) != 1:
        raise ValueError("support sets that are adapted together must have one shape")
    inputs = torch.stack([one.inputs for one in supports])
    labels = torch.stack([one.labels for one in supports]).to(inputs.device, non_blocking=True)
    # A forward holds the examples of all tasks at once: no more of them than of one large task.
    most = learner.backbone.micro_batch_examples(inputs.device.type)
    at_once = max(1, most // min(most, inputs.shape[1]))
    adapted = partial(learner.adapted, way=supports[0].way, differentiate=side_by_side, on_step=beat_now)
    with torch.no_grad():
        found = torch.func.vmap(adapted, chunk_size=at_once)(inputs, labels)
        fine = torch.stack([one.flatten(1).isfinite().all(dim=1) for one in found.values()]).all(dim=0)
    return [
        {name: one[index].clone() for name, one in found.items()} if ok else learner.diverged()
        for index, ok in enumerate(fine.tolist())
    ]


def judge_together(learner: WeightLearner[Any], supports: Sequence[Support]) -> list[HeldOut | None]:
    """`judge` of each; None also where an adaptation to a part of the set diverges.

    The labels may lie on the CPU. Raises: as `adapt_together`; `ValueError` for sets of several shots.
    """
    first, *others = supports
    if any(not torch.equal(first.shots.sort().values, one.shots.sort().values) for one in others):
        raise ValueError("support sets that are judged together must have the same shots")
    splits = [split_of(learner, one.inputs, one.labels, one.way) for one in supports]
    known = [one for one in splits if one is not None]
    if len(known) < len(splits):
        return [None] * len(supports)
    with torch.no_grad():
        scores = _held_out_logits(learner, supports, known)
    return [
        None if own is None else held_out(own, one.labels, split)
        for own, one, split in zip(scores, supports, known, strict=True)
    ]


def _held_out_logits(
    learner: WeightLearner[Any], supports: Sequence[Support], splits: Sequence[Int64[Tensor, " s"]]
) -> list[Float[Tensor, "s way"] | None]:
    """Row i: logits of example i by a state of the other folds, as `cross_validate` gives them, beside the labels."""
    way, place = supports[0].way, supports[0].labels.device
    found: dict[int, Tensor] = {}
    diverged: set[int] = set()
    for fold in range(int(splits[0].max()) + 1):
        kept = [
            Support(_rows(one.inputs, own != fold), one.labels[own != fold], way)
            for one, own in zip(supports, splits, strict=True)
        ]
        states = adapt_together(learner, kept)
        fine = {index: state for index, state in enumerate(states) if not isinstance(state, Diverged)}
        diverged |= set(range(len(states))) - set(fine)
        out = {index: splits[index] == fold for index in fine if index not in diverged}
        if not out:
            break
        logits = [learner.logits(fine[index], _rows(supports[index].inputs, own)) for index, own in out.items()]
        for (index, own), some in zip(out.items(), torch.stack(logits).to(place), strict=True):
            found.setdefault(index, some.new_full((len(own), way), torch.nan))[own] = some
    return [None if index in diverged else found[index] for index in range(len(supports))]


def _rows(inputs: Shaped[Tensor, "s ..."], chosen: Bool[Tensor, " s"]) -> Shaped[Tensor, "n ..."]:
    """Rows chosen on the CPU, without a wait for the device."""
    return inputs.index_select(0, chosen.nonzero()[:, 0].to(inputs.device, non_blocking=True))
