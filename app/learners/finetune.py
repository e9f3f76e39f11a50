"""Fine-tuning: a new head, then the whole network; the transfer baseline."""

from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from app.core.episode import Episode
from app.core.errors import Invalid
from app.learners._adam import Adam
from app.learners._base import LearnerSettings
from app.learners._distance import in_units, spread
from app.learners._inner_loop import BIAS, WEIGHT, Update, Weights, head_slopes, near, prototype_head
from app.learners._rates import HEAD, rates_at
from app.learners._weights import Features, WeightLearner, WeightSettings


class NothingToTrain(Invalid):
    """A learner without a meta-training."""

    code = "nothing-to-train"
    title = "The learner is not meta-trained"


@final
@dataclass(frozen=True)
class FinetuneSettings(WeightSettings):
    """Settings of `Finetune`."""

    steps: int = field(
        default=20,
        metadata={"description": "Steps of the whole network, all examples in each.", "minimum": 0, "maximum": 1000},
    )
    learning_rate: float = field(
        default=3e-4,
        metadata={"description": "Adam's rate for the backbone's weights.", "above": 0.0, "maximum": 1e3},
    )
    head_steps: int = field(
        default=100,
        metadata={
            "description": "Steps of the head alone, on frozen embeddings, first.",
            "minimum": 0,
            "maximum": 10_000,
        },
    )
    head_learning_rate: float = field(
        default=0.01,
        metadata={"description": "Adam's rate for the head, for embeddings in units.", "above": 0.0, "maximum": 1e3},
    )
    weight_decay: float = field(
        default=0.0,
        metadata={
            "description": "Share by which a weight shrinks in a step, over the rate.",
            "minimum": 0,
            "maximum": 10,
        },
    )
    temperature: float = field(
        default=1.0,
        metadata={"description": "Sharpness of the prototypes that the head starts at.", "above": 0.0, "maximum": 1e3},
    )


@final
class Finetune(WeightLearner[FinetuneSettings]):
    """Fits a linear head on the frozen embeddings, then moves it and all weights together, by Adam.

    The head starts at the prototypes' own scores, with embeddings less the mean c of the class means and in units of
    the support set's spread u, so that their scale is no matter; it is then written for plain embeddings. Each step
    takes the whole support set, so there is nothing random, and the order of the examples does not matter.
    `training_steps` is not used: a task is fitted alone, and there is nothing to meta-train.

    State: see `WeightLearner`: the adapted weights and the trace `support_losses` of the whole network's steps.
    Logits: scores of the adapted head on the embeddings of the adapted backbone; softmax gives probabilities.
    Cost: 2 + 3 * steps passes over the support set; a copy of the weights stored a task (four while it adapts).
    Raises: `Diverged`; `NothingToTrain` by `episode_loss` in training mode.
    Paper: Chen et al., ICLR 2019, arXiv:1904.04232 (Baseline), section 3.2; the whole network: Dhillon et al., ICLR
    2020, arXiv:1909.02729, section 3.
    Departs from it: the start of the head; Adam, in two phases; no dropout and no transductive term.
    """

    paper: ClassVar[str] = "Chen et al., ICLR 2019, arXiv:1904.04232; Dhillon et al., ICLR 2020, arXiv:1909.02729"
    cost: ClassVar[str] = "2 + 3 * steps passes over the support set; a copy of the backbone's weights stored a task"
    Settings: ClassVar[type[LearnerSettings]] = FinetuneSettings

    @property
    def second_order(self) -> bool:
        """Never."""
        return False

    def begin(self, features: Features, shares: Float[Tensor, "s way"]) -> tuple[Weights, Update]:
        """Fit the head on the frozen embeddings; then Adam on everything."""
        with torch.no_grad():
            embeddings = near(features(), shares)
            unit = spread(embeddings)
            rows = in_units(embeddings, unit)
            centre = (shares.mT @ rows).sum(dim=0)
            fitted = self._fit_head(rows - centre, shares)
            weight = fitted[WEIGHT] / unit
            head = {WEIGHT: weight, BIAS: fitted[BIAS] - fitted[WEIGHT] @ centre}
        rate, head_rate = (shares.new_tensor(one) for one in (self.settings.learning_rate, self._head_rate))
        rates = {**rates_at([*self.weights(), *HEAD], rate, head_rate), WEIGHT: head_rate / unit}
        return head, Adam(rates, decay=self.settings.weight_decay)

    def episode_loss(self, episode: Episode) -> Float[Tensor, ""]:
        """Cross-entropy of the queries; in training mode, `NothingToTrain`."""
        if self.training:
            raise NothingToTrain(
                "The learner 'finetune' fits each task alone and is not meta-trained: train the backbone by "
                "classifying or with another learner."
            )
        return super().episode_loss(episode)

    @property
    def _head_rate(self) -> float:
        return self.settings.head_learning_rate

    def _fit_head(self, rows: Float[Tensor, "s dim"], shares: Float[Tensor, "s way"]) -> Weights:
        head = prototype_head(rows, shares, rows.new_tensor(self.settings.temperature))
        rate = rows.new_tensor(self._head_rate)
        adam = Adam({WEIGHT: rate, BIAS: rate}, decay=self.settings.weight_decay)
        for step in range(self.settings.head_steps):
            head = adam(step, head, head_slopes(head, rows, shares)[1])
        return head
