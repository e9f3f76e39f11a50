"""Matching networks: attention over the support set by cosine."""

import math
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from app.backbones._base import Backbone
from app.core.episode import TaskState
from app.core.errors import InvalidSetting
from app.learners._base import EmbeddingLearner, EmbeddingSettings, LearnerSettings
from app.learners._distance import unit_vectors
from app.learners._folds import few_enough, kept_in
from app.learners._full_context import FullContext


@final
@dataclass(frozen=True)
class MatchingNetSettings(EmbeddingSettings):
    """Settings of `MatchingNet`."""

    temperature: float = field(
        default=10.0,
        metadata={
            "description": "Multiplies the cosines: higher attends to fewer examples.",
            "above": 0.0,
            "maximum": 1e4,
        },
    )
    full_context: bool = field(
        default=False,
        metadata={"description": "Embed each example in the light of the support set, by meta-trained networks."},
    )
    context_steps: int = field(
        default=5,
        metadata={
            "description": "How often the network over a query reads the support set, with full_context.",
            "minimum": 1,
            "maximum": 50,
        },
    )


@final
class MatchingNet(EmbeddingLearner[MatchingNetSettings]):
    """Labels a query as the support examples that point the same way.

    With `full_context` the support examples and the queries are first changed by two recurrent networks that see the
    whole support set; they hold 28 dim^2 weights, meta-trained (at zero, their start, they change nothing).

    State: `support`, float (s, dim), of length one (with full context: the changed ones, whose length is free);
    `labels`, int64 (s,); `shots`, int64 (way,).
    Logits: log of each class's share of the attention, so at most 0; always finite.
    Cost: one backbone pass over the support set; s * dim numbers stored. Full context adds 16 s dim^2 products to a
    fit, one after another over the examples, and `context_steps` * (12 dim^2 + 2 s dim) to each query.
    Raises: `InvalidSetting` for `full_context` on a backbone whose dim is that of its input.
    Paper: Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra, NeurIPS 2016, arXiv:1606.04080, eq. 1,
    section 2.1.1 (softmax over cosines) and 2.1.2 with appendix A (full context).
    Departs from it: the temperature; a class's attention is averaged over its examples instead of summed, which is
    the same in the paper's balanced episodes and does not favour the label with more examples elsewhere; the order in
    which the support set is read is that of its coordinates, so that the order of arrival is no matter.
    """

    paper: ClassVar[str] = "Vinyals et al., NeurIPS 2016, arXiv:1606.04080"
    cost: ClassVar[str] = "one pass over the support set; s * dim numbers stored; s * dim products a query"
    Settings: ClassVar[type[LearnerSettings]] = MatchingNetSettings
    stacks: ClassVar[bool] = True
    learnable: ClassVar[tuple[str, ...]] = ("temperature",)

    def __init__(self, backbone: Backbone, settings: MatchingNetSettings) -> None:
        super().__init__(backbone, settings)
        if settings.full_context:
            dim = settings.projection or backbone.dim
            if dim is None:
                raise InvalidSetting(
                    "A backbone whose dim is that of its input has no full context.", pointer="/full_context"
                )
            self.context = FullContext(dim)

    def fit(self, features: Float[Tensor, "s dim"], labels: Int64[Tensor, " s"], way: int) -> TaskState:
        """Keep the embeddings, each of length one or in full context."""
        support = unit_vectors(self.prepare(features))
        return {
            "support": self.context.support(_long(support)) if self.settings.full_context else support,
            "labels": labels,
            "shots": labels.bincount(minlength=way),
        }

    def score(self, state: TaskState, features: Float[Tensor, "*t q dim"]) -> Float[Tensor, "*t q way"]:
        """Log of the attention that falls on each class."""
        queries, support, heat = unit_vectors(self.prepare(features)), state["support"], self.value("temperature")
        if self.settings.full_context:
            queries = unit_vectors(self.context.query(_long(queries), support, heat, self.settings.context_steps))
            support = unit_vectors(support)
        return _log_shares(heat * (queries @ support.mT), state["labels"], state["shots"][..., None, :])

    def cross_validate(
        self, features: Float[Tensor, "s dim"], labels: Int64[Tensor, " s"], way: int, folds: Int64[Tensor, " s"]
    ) -> Float[Tensor, "s way"]:
        """All folds at once where the set is small: each example attends to those that its fold keeps."""
        kept = kept_in(folds)
        if self.settings.full_context or not few_enough(kept, way):
            return super().cross_validate(features, labels, way, folds)
        own = kept[folds.clamp_min(0)]
        directions = unit_vectors(self.prepare(features))
        energies = (self.value("temperature") * (directions @ directions.T)).masked_fill(~own, -math.inf)
        # Counted in floats, as products of integers are not everywhere.
        shots = own.to(features.dtype) @ torch.nn.functional.one_hot(labels, way).to(features.dtype)
        return _log_shares(energies, labels, shots.long()).masked_fill(folds[:, None] < 0, math.nan)

    def leave_one_out(
        self, features: Float[Tensor, "s dim"], labels: Int64[Tensor, " s"], way: int
    ) -> Float[Tensor, "s way"] | None:
        """Mask each example's attention to itself: the rest of the state is what a fit without it keeps.

        None with full context, where the others' embeddings change too.
        """
        if self.settings.full_context:
            return None
        directions = unit_vectors(self.prepare(features))
        itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        energies = (self.value("temperature") * (directions @ directions.T)).masked_fill(itself, -math.inf)
        own = torch.nn.functional.one_hot(labels, way)
        return _log_shares(energies, labels, labels.bincount(minlength=way) - own)

    def held_out_products(self, examples: int, dim: int, way: int, folds: int) -> int:
        """A cosine of each pair in each fold, and what the context takes."""
        cosines = super().held_out_products(examples, dim, way, folds)
        if not self.settings.full_context:
            return cosines
        wide = self.settings.projection or dim
        reading = 12 * wide * wide + 2 * examples * wide
        return cosines + examples * (16 * folds * wide * wide + self.settings.context_steps * reading)


def _long(directions: Float[Tensor, "*t n dim"]) -> Float[Tensor, "*t n dim"]:
    return directions * math.sqrt(directions.shape[-1])


def _log_shares(
    energies: Float[Tensor, "*t q s"], labels: Int64[Tensor, "*t s"], shots: Int64[Tensor, "*t #q way"]
) -> Float[Tensor, "*t q way"]:
    """Log of each class's mean attention over the sum of them; -inf for a class without examples.

    Each class is shifted by its own peak, so that none underflows to a log of zero.
    """
    size = (*energies.shape[:-1], shots.shape[-1])
    index = labels[..., None, :].expand_as(energies)
    peaks = energies.detach().new_full(size, -math.inf).scatter_reduce(-1, index, energies.detach(), "amax")
    shifts = peaks.clamp_min(torch.finfo(energies.dtype).min)
    weights = (energies - shifts.gather(-1, index)).exp()
    masses = energies.new_zeros(size).scatter_add(-1, index, weights)
    means = (masses / shots.clamp_min(1)).log() + shifts
    return means.masked_fill(shots == 0, -math.inf).log_softmax(dim=-1)
