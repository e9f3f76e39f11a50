"""Chooses a learner by how well each labels examples of the support set that it was not fitted on."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor

from app.learners._base import EmbeddingLearner, Learner
from app.learners._weights import WeightLearner

PRODUCTS_PER_EXAMPLE = 4_000_000
"""What judging a learner may cost: some 0.1 ms of two CPU cores an example, against 3 ms of the smallest backbone."""

_FOLDS = (10, 5, 3, 2)
_Z95 = 1.959964


@dataclass(frozen=True)
class HeldOut:
    """How well a learner labels support examples that it was not fitted on.

    `method` is "leave-one-out-per-label" or, where that takes too many fits, "10-fold", "5-fold" and so on; `accuracy`
    a share of the `examples` judged, `interval_95` half the width of its Wilson interval; `log_loss` in nats, of the
    confidences as they are served. An example alone in its class is not judged.
    """

    method: str
    accuracy: float
    interval_95: float
    log_loss: float
    examples: int


@dataclass(frozen=True)
class Selection:
    """The learner chosen, a sentence that says why, and each judged candidate's held-out score."""

    chosen: str
    reason: str
    scores: Mapping[str, HeldOut]


@dataclass(frozen=True, eq=False)
class _Verdict:
    held_out: HeldOut
    right: Bool[Tensor, " judged"]


def judge(
    learner: Learner[Any], rows: Shaped[Tensor, "s ..."], labels: Int64[Tensor, " s"], way: int
) -> HeldOut | None:
    """Held-out score of one learner; None where no class has two examples or it would cost too much.

    `rows` are what the learner works on: inputs, or embeddings for an `EmbeddingLearner`.
    """
    split = split_of(learner, rows, labels, way)
    return None if split is None else _verdict(learner, rows, labels, way, split).held_out


def split_of(
    learner: Learner[Any], rows: Shaped[Tensor, "s ..."], labels: Int64[Tensor, " s"], way: int
) -> Int64[Tensor, " s"] | None:
    """The fold of each example in which `judge` holds it out, -1 for none; None where `judge` has no answer."""
    folds = _folds_within_budget(learner, rows, labels, way)
    return None if folds is None else _split(labels, folds)


def held_out(scores: Float[Tensor, "s way"], labels: Int64[Tensor, " s"], split: Int64[Tensor, " s"]) -> HeldOut:
    """What `judge` makes of the logits that `Learner.cross_validate` gives for a split."""
    return _verdict_on(scores, labels, split).held_out


def select(
    candidates: Mapping[str, EmbeddingLearner[Any]],
    features: Float[Tensor, "s dim"],
    labels: Int64[Tensor, " s"],
    way: int,
) -> Selection:
    """Choose among `candidates`, given in order of preference; all are judged on the same held-out examples.

    Each round leaves out one example of every label, until each example was left out once. (To leave out a single
    one starves its own label alone, which punishes learners that average: on 10-way 2-shot photographs it scored the
    logistic head 22 % and matching 46 %, whose accuracies on fresh ones were 57 and 55 %.)

    The most accurate wins, unless one before it in order of preference trails it by no more than two standard errors of
    the paired difference: a few examples say little, and the order holds what many other sets have said. A
    candidate too costly to judge is not chosen while another can be judged. Deterministic, and the numbering of the
    labels does not matter. Folds are dealt in the order of the rows: callers put them into a canonical one.
    """
    first = next(iter(candidates))
    if int(labels.bincount().max()) < 2:
        return Selection(first, f"No label has two examples to compare learners on, so {first} is the default.", {})
    most = {name: _folds_within_budget(one, features, labels, way) for name, one in candidates.items()}
    affordable = {name: folds for name, folds in most.items() if folds is not None}
    if not affordable:
        return Selection(first, f"The set is too large to compare learners on, so {first} is the default.", {})
    folds = min(affordable.values())
    split = _split(labels, folds)
    verdicts = {name: _verdict(candidates[name], features, labels, way, split) for name in affordable}
    chosen, reason = _choose(verdicts)
    left_out = [name for name in candidates if name not in affordable]
    if left_out:
        reason += f" Too costly to judge on so large a set: {', '.join(left_out)}."
    return Selection(chosen, reason, {name: one.held_out for name, one in verdicts.items()})


def _choose(verdicts: Mapping[str, _Verdict]) -> tuple[str, str]:
    """The winner among verdicts in order of preference, and why."""
    best = max(verdicts, key=lambda name: verdicts[name].held_out.accuracy)
    chosen = next(name for name, one in verdicts.items() if _within_noise(verdicts[best].right, one.right))
    held_out = verdicts[chosen].held_out
    score = f"{held_out.accuracy:.1%} of {held_out.examples} held-out examples right ({held_out.method})"
    if len(verdicts) == 1:
        return chosen, f"{chosen} is the only learner to choose from: {score}."
    if all(one.held_out.accuracy == held_out.accuracy for one in verdicts.values()):
        return chosen, f"{chosen}: {score}, and no other learner does better or worse."
    if chosen == best:
        return chosen, f"{chosen} is the most accurate: {score}."
    top = f"{best} with {verdicts[best].held_out.accuracy:.1%}"
    return chosen, f"{chosen}: {score}. It is preferred to {top}, which is better by no more than chance may be."


def _within_noise(best: Bool[Tensor, " judged"], other: Bool[Tensor, " judged"]) -> bool:
    """Whether the examples that only one of two gets right differ by at most two standard errors (McNemar 1947)."""
    lead = int((best & ~other).sum()) - int((other & ~best).sum())
    return lead <= 2 * math.sqrt(int((best ^ other).sum()))


def _folds_within_budget(
    learner: Learner[Any], rows: Shaped[Tensor, "s ..."], labels: Int64[Tensor, " s"], way: int
) -> int | None:
    """As many folds as the largest class has examples, or the most of a few numbers that is not too costly."""
    shot = int(labels.bincount().max())
    for folds in (min(shot, most) for most in _FOLDS):
        if folds > 1 and _affordable(learner, len(rows), rows[0].numel(), way, folds):
            return folds
    return None


def _affordable(learner: Learner[Any], examples: int, dim: int, way: int, folds: int) -> bool:
    if isinstance(learner, WeightLearner):
        return learner.may_judge(examples, folds)
    return learner.held_out_products(examples, dim, way, folds) <= PRODUCTS_PER_EXAMPLE * examples


def _verdict(
    learner: Learner[Any],
    rows: Shaped[Tensor, "s ..."],
    labels: Int64[Tensor, " s"],
    way: int,
    split: Int64[Tensor, " s"],
) -> _Verdict:
    """Judge on every example that has a fold."""
    with torch.no_grad():
        return _verdict_on(learner.cross_validate(rows, labels, way, split), labels, split)


def _verdict_on(scores: Float[Tensor, "s way"], labels: Int64[Tensor, " s"], split: Int64[Tensor, " s"]) -> _Verdict:
    judged, folds = split >= 0, int(split.max()) + 1
    truth = labels[judged]
    logits = scores[judged]
    # A label that scores the same as the right one is not told apart from it: that is no right answer.
    right = (logits >= logits.gather(1, truth[:, None])).sum(dim=1) == 1
    accuracy, count = float(right.double().mean()), len(truth)
    method = "leave-one-out-per-label" if folds == int(labels.bincount().max()) else f"{folds}-fold"
    log_loss = float(torch.nn.functional.cross_entropy(logits, truth))
    found = HeldOut(method, accuracy, _wilson_95(accuracy, count), log_loss, count)
    return _Verdict(found, right)


def _split(labels: Int64[Tensor, " s"], folds: int) -> Int64[Tensor, " s"]:
    """A fold for each example, -1 for one alone in its class: each class is dealt out in turn, in the rows' order."""
    counts = labels.bincount()
    by_class = labels.argsort(stable=True)
    starts = counts.cumsum(0) - counts
    turn = torch.empty_like(labels)
    turn[by_class] = torch.arange(len(labels), device=labels.device) - starts[labels[by_class]]
    return (turn % folds).masked_fill(counts[labels] == 1, -1)


def _wilson_95(share: float, count: int) -> float:
    """Half the width of Wilson's 95 % interval for a share of `count` (Wilson 1927)."""
    square = _Z95**2
    return _Z95 / (1 + square / count) * math.sqrt(share * (1 - share) / count + square / (4 * count**2))
