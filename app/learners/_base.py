"""What every learner is: a few-shot algorithm without task state."""

import math
from abc import ABC, abstractmethod
from typing import ClassVar, Generic, TypeVar

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor, nn

from app.backbones._base import Backbone
from app.core.episode import Episode, Support, TaskState
from app.learners._settings import LearnerSettings

__all__ = ["EmbeddingLearner", "Learner", "LearnerSettings", "one_hot"]

S = TypeVar("S", bound=LearnerSettings)


class Learner(nn.Module, ABC, Generic[S]):
    """A few-shot algorithm. It holds no task state: one instance serves all tasks."""

    paper: ClassVar[str]
    cost: ClassVar[str]
    Settings: ClassVar[type[LearnerSettings]]

    def __init__(self, backbone: Backbone, settings: S) -> None:
        super().__init__()
        self.backbone = backbone
        self.settings: S = settings

    @abstractmethod
    def adapt(self, support: Support) -> TaskState:
        """Make a task's state from its support set. Same support, same state."""

    @abstractmethod
    def logits(self, state: TaskState, inputs: Shaped[Tensor, "q ..."]) -> Float[Tensor, "q way"]:
        """Score queries; softmax over the last axis gives probabilities. Row `i` depends on input `i` alone."""

    def episode_loss(self, episode: Episode) -> Float[Tensor, ""]:
        """Cross-entropy of the queries after adapting to the support: all that training calls."""
        state = self.adapt(episode.support)
        return nn.functional.cross_entropy(self.logits(state, episode.query_inputs), episode.query_labels)


class EmbeddingLearner(Learner[S], ABC):
    """One backbone pass, then a head fitted on the embeddings. Knows its held-out scores cheaply."""

    @abstractmethod
    def fit(self, features: Float[Tensor, "s dim"], labels: Int64[Tensor, " s"], way: int) -> TaskState:
        """Fit the head on the support set's embeddings."""

    @abstractmethod
    def score(self, state: TaskState, features: Float[Tensor, "q dim"]) -> Float[Tensor, "q way"]:
        """Logits of embedded queries."""

    def adapt(self, support: Support) -> TaskState:
        """Embed the support set and fit the head."""
        return self.fit(self.backbone(support.inputs), support.labels, support.way)

    def logits(self, state: TaskState, inputs: Shaped[Tensor, "q ..."]) -> Float[Tensor, "q way"]:
        """Embed the queries and score them."""
        return self.score(state, self.backbone(inputs))

    def leave_one_out(
        self, features: Float[Tensor, "s dim"], labels: Int64[Tensor, " s"], way: int
    ) -> Float[Tensor, "s way"] | None:
        """Row `i`: logits of example `i` by a head fitted on the others, in closed form.

        `None` where no closed form exists: then the caller refits. A class whose only example is held
        out scores minus infinity.
        """
        del features, labels, way
        return None

    def cross_validate(
        self, features: Float[Tensor, "s dim"], labels: Int64[Tensor, " s"], way: int, folds: Int64[Tensor, " s"]
    ) -> Float[Tensor, "s way"]:
        """Row `i`: logits of example `i` by a head fitted on the other folds; NaN where its fold is -1.

        Examples of fold -1 are fitted in every fold. Every class must keep an example in each.
        """
        scores = features.new_full((len(features), way), math.nan)
        for fold in range(int(folds.max()) + 1):
            out = folds == fold
            state = self.fit(features[~out], labels[~out], way)
            scores[out] = self.score(state, features[out])
        return scores

    def held_out_products(self, examples: int, dim: int, way: int, folds: int) -> int:
        """About how many multiplications `cross_validate` takes."""
        return folds * examples * dim * (way + min(examples, dim))


def one_hot(labels: Int64[Tensor, " s"], way: int, like: Tensor) -> Float[Tensor, "s way"]:
    """Indicator matrix in the type of `like`."""
    return torch.nn.functional.one_hot(labels, way).to(like.dtype)
