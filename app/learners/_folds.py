"""All folds of a small set judged at once, from the inner products of its examples: their size is no matter then."""

import math
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

_MOST_EXAMPLES: Final = 256
"""Of more, all inner products take longer than the folds one by one."""

_MOST_HELD: Final = 1_000_000
"""Numbers that judging may hold at a time."""

_MODEST: Final = 1e12
"""Embeddings beyond this go the careful way."""

_ALIKE: Final = 1e-6
"""A share of the largest coordinate: a spread below it is none, as in `_distance.spreads`."""


@dataclass(frozen=True, eq=False)
class FoldProducts:
    """`b` folds of `s` examples. `gram` holds the inner products of the examples less their mean; `kept` is one where a
    fold keeps an example and zero where it holds it out; `largest` is each example's largest coordinate."""

    gram: Float64[Tensor, "s s"]
    kept: Float64[Tensor, "b s"]
    largest: Float64[Tensor, " s"]

    def spreads(self) -> Float64[Tensor, " b"]:
        """`_distance.spreads` of what each fold keeps: root mean squared distance from its mean, above zero."""
        shares = self.kept / self.kept.sum(dim=1, keepdim=True)
        mean_square = shares @ self.gram.diagonal() - (shares @ self.gram * shares).sum(dim=1)
        length = mean_square.clamp_min(0).sqrt()
        largest = (self.largest * self.kept).amax(dim=1)
        return torch.where(length > _ALIKE * largest, length, torch.where(largest > 0, largest, 1.0))


def fold_products(embeddings: Float[Tensor, "s dim"], folds: Int64[Tensor, " s"], way: int) -> FoldProducts | None:
    """None for a set that is judged fold by fold."""
    kept = kept_in(folds)
    if not few_enough(kept, way):
        return None
    largest = embeddings.abs().amax(dim=1)
    if bool(largest.amax() > _MODEST):
        return None
    wide = embeddings.double()
    around = wide - wide.mean(dim=0)
    return FoldProducts(around @ around.T, kept.double(), largest.double())


def few_enough(kept: Bool[Tensor, "b s"], way: int) -> bool:
    """Does it pay to judge all folds at once?"""
    folds, examples = kept.shape
    return examples <= _MOST_EXAMPLES and folds * examples * max(examples, way) <= _MOST_HELD


def kept_in(folds: Int64[Tensor, " s"]) -> Bool[Tensor, "b s"]:
    """For each fold, whether it keeps an example; one of fold -1 is kept in all."""
    return folds != torch.arange(max(1, int(folds.max()) + 1), device=folds.device)[:, None]


def of_own_fold(scores: Float[Tensor, "b s way"], folds: Int64[Tensor, " s"]) -> Float[Tensor, "s way"]:
    """Each example's scores by the fold that holds it out, NaN where none does."""
    own = scores.gather(0, folds.clamp_min(0)[None, :, None].expand(1, -1, scores.shape[2]))[0]
    return own.masked_fill(folds[:, None] < 0, math.nan)
