"""Prototypical networks: the nearest class mean."""

from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from app.core.episode import TaskState
from app.learners._base import EmbeddingLearner, EmbeddingSettings, LearnerSettings, one_hot
from app.learners._distance import (
    LOGIT_LIMIT,
    class_means,
    in_units,
    spread,
    squared_distances,
)
from app.learners._folds import fold_products, of_own_fold


@final
@dataclass(frozen=True)
class ProtoNetSettings(EmbeddingSettings):
    """Settings of `ProtoNet`."""

    temperature: float = field(
        default=1.0,
        metadata={"description": "Multiplies the squared distances: higher is surer.", "above": 0.0, "maximum": 1e6},
    )
    relative: bool = field(
        default=False,
        metadata={"description": "Measure distances in units of the support set's spread, so that scale is no matter."},
    )


@final
class ProtoNet(EmbeddingLearner[ProtoNetSettings]):
    """Scores a query by how near it lies to the mean of each class.

    State: `prototypes`, float (way, dim), in the backbone's embedding units; `unit`, float (), the length that
    counts as one: 1, or the support set's spread with `relative`.
    Logits: minus temperature times the squared distance in units; softmax gives probabilities.
    Cost: one backbone pass over the support set; way * dim numbers stored.
    Raises: nothing; `Support` has already refused a class without examples.
    Paper: Snell, Swersky, Zemel, NeurIPS 2017, arXiv:1703.05175, eq. 1-2.
    Departs from it: the temperature, the unit of length and, if set, embeddings of length one.
    """

    paper: ClassVar[str] = "Snell, Swersky, Zemel, NeurIPS 2017, arXiv:1703.05175"
    cost: ClassVar[str] = "one pass over the support set; way * dim numbers stored; way * dim products a query"
    Settings: ClassVar[type[LearnerSettings]] = ProtoNetSettings
    stacks: ClassVar[bool] = True
    learnable: ClassVar[tuple[str, ...]] = ("temperature",)

    def fit(self, features: Float[Tensor, "s dim"], labels: Int64[Tensor, " s"], way: int) -> TaskState:
        """Average the embeddings of each class."""
        embeddings = self.prepare(features)
        prototypes, _ = class_means(embeddings, labels, way)
        unit = spread(embeddings) if self.settings.relative else features.new_ones(())
        return {"prototypes": prototypes, "unit": unit}

    def score(self, state: TaskState, features: Float[Tensor, "*t q dim"]) -> Float[Tensor, "*t q way"]:
        """Logits of embedded queries: minus the scaled squared distances."""
        unit = state["unit"]
        distances = squared_distances(
            in_units(self.prepare(features), unit), state["prototypes"] / unit[..., None, None]
        )
        return (-self.value("temperature") * distances).clamp_min(-LOGIT_LIMIT)

    def cross_validate(
        self, features: Float[Tensor, "s dim"], labels: Int64[Tensor, " s"], way: int, folds: Int64[Tensor, " s"]
    ) -> Float[Tensor, "s way"]:
        """All folds at once where the set is small: |x - p|^2 = |x|^2 - 2 x p + |p|^2, p the mean of what is kept."""
        products = fold_products(self.prepare(features), folds, way)
        if products is None:
            return super().cross_validate(features, labels, way, folds)
        shares = products.kept[:, None] * one_hot(labels, way, products.kept).T
        shares = shares / shares.sum(2, keepdim=True)
        across = shares @ products.gram
        apart = products.gram.diagonal() - 2 * across + (across * shares).sum(2, keepdim=True)
        if self.settings.relative:
            apart = apart / products.spreads().square()[:, None, None]
        scores = (-self.value("temperature") * apart.clamp_min(0)).clamp_min(-LOGIT_LIMIT)
        return of_own_fold(scores.mT, folds).to(features.dtype)

    def leave_one_out(
        self, features: Float[Tensor, "s dim"], labels: Int64[Tensor, " s"], way: int
    ) -> Float[Tensor, "s way"]:
        """Without itself, an example is shot / (shot - 1) times as far from its class's mean; the unit stays."""
        state = self.fit(features, labels, way)
        shots = labels.bincount(minlength=way)[labels][:, None].to(features.dtype)
        own = one_hot(labels, way, features) == 1
        scores = self.score(state, features)
        without = torch.where(shots > 1, scores * (shots / (shots - 1)).square(), -torch.inf)
        return torch.where(own, without, scores)
