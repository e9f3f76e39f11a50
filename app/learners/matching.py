"""Matching networks: attention over the support set by cosine."""

import math
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from app.core.episode import TaskState
from app.learners._base import EmbeddingLearner, EmbeddingSettings, LearnerSettings
from app.learners._distance import unit_vectors


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


@final
class MatchingNet(EmbeddingLearner[MatchingNetSettings]):
    """Labels a query as the support examples that point the same way.

    State: `support`, float (s, dim), of length one; `labels`, int64 (s,); `shots`, int64 (way,).
    Logits: log of each class's share of the attention, so at most 0; always finite.
    Cost: one backbone pass over the support set; s * dim numbers stored.
    Raises: nothing.
    Paper: Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra, NeurIPS 2016, arXiv:1606.04080, eq. 1 and
    section 2.1.1 (softmax over cosines).
    Departs from it: the temperature; a class's attention is averaged over its examples instead of summed, which is
    the same in the paper's balanced episodes and does not favour the label with more examples elsewhere; no full
    context embeddings.
    """

    paper: ClassVar[str] = "Vinyals et al., NeurIPS 2016, arXiv:1606.04080"
    cost: ClassVar[str] = "one pass over the support set; s * dim numbers stored; s * dim products a query"
    Settings: ClassVar[type[LearnerSettings]] = MatchingNetSettings

    def fit(self, features: Float[Tensor, "s dim"], labels: Int64[Tensor, " s"], way: int) -> TaskState:
        """Keep the embeddings, each of length one."""
        return {
            "support": unit_vectors(self.prepare(features)),
            "labels": labels,
            "shots": labels.bincount(minlength=way),
        }

    def score(self, state: TaskState, features: Float[Tensor, "q dim"]) -> Float[Tensor, "q way"]:
        """Log of the attention that falls on each class."""
        cosines = unit_vectors(self.prepare(features)) @ state["support"].T
        return _log_shares(self.settings.temperature * cosines, state["labels"], state["shots"])

    def leave_one_out(
        self, features: Float[Tensor, "s dim"], labels: Int64[Tensor, " s"], way: int
    ) -> Float[Tensor, "s way"]:
        """Mask each example's attention to itself: the rest of the state is what a fit without it keeps."""
        directions = unit_vectors(self.prepare(features))
        itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        energies = (self.settings.temperature * (directions @ directions.T)).masked_fill(itself, -math.inf)
        own = torch.nn.functional.one_hot(labels, way)
        return _log_shares(energies, labels, labels.bincount(minlength=way) - own)


def _log_shares(
    energies: Float[Tensor, "q s"], labels: Int64[Tensor, " s"], shots: Int64[Tensor, "*q way"]
) -> Float[Tensor, "q way"]:
    """Log of each class's mean attention over the sum of them; -inf for a class without examples.

    Each class is shifted by its own peak, so that none underflows to a log of zero.
    """
    size = (len(energies), shots.shape[-1])
    index = labels.expand_as(energies)
    peaks = energies.detach().new_full(size, -math.inf).scatter_reduce(1, index, energies.detach(), "amax")
    shifts = peaks.clamp_min(torch.finfo(energies.dtype).min)
    weights = (energies - shifts.gather(1, index)).exp()
    masses = energies.new_zeros(size).index_add(1, labels, weights)
    means = (masses / shots.clamp_min(1)).log() + shifts
    return means.masked_fill(shots == 0, -math.inf).log_softmax(dim=1)
