"""Reptile: weights drawn to where each task's own training leads."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from app.core.episode import Episode
from app.learners._adam import Adam
from app.learners._base import LearnerSettings
from app.learners._inner_loop import Update, Weights, at_rates, past
from app.learners._rates import HEAD, rates_at
from app.learners._weights import Features, WeightLearner, WeightSettings


@final
@dataclass(frozen=True)
class ReptileSettings(WeightSettings):
    """Settings of `Reptile`."""

    steps: int = field(
        default=20, metadata={"description": "Inner steps when a task is adapted.", "minimum": 1, "maximum": 1000}
    )
    learning_rate: float = field(
        default=0.001,
        metadata={"description": "Inner learning rate of the backbone's weights.", "above": 0.0, "maximum": 1e3},
    )
    head_learning_rate: float = field(
        default=0.01, metadata={"description": "Inner learning rate of the head.", "above": 0.0, "maximum": 1e3}
    )
    optimiser: str = field(
        default="adam",
        metadata={"description": "What takes the inner steps; adam is without momentum.", "choices": ("adam", "sgd")},
    )
    shots_a_batch: int = field(
        default=1,
        metadata={
            "description": "Examples of each class in an inner step of meta-training; a task is adapted on all.",
            "minimum": 1,
            "maximum": 1000,
        },
    )


@final
class Reptile(WeightLearner[ReptileSettings]):
    """Trains on a task as usual; meta-training then moves the weights towards where that led.

    In meta-training the support set and the queries are one set, dealt out in batches of `shots_a_batch` examples a
    class, one batch a step, round and round. `episode_loss` has the value of the mean loss of those steps, and the
    gradient theta - phi in the backbone's weights, where phi is what theta became: a step of plain gradient descent at
    rate e moves theta by e (phi - theta), as in the paper, and any other optimiser takes the same gradient.

    The head starts at zero, so any way is served and the numbering of the labels does not matter.

    State: see `WeightLearner`: the adapted weights and the trace `support_losses`.
    Logits: scores of the adapted head on the embeddings of the adapted backbone; softmax gives probabilities.
    Cost: steps * 3 passes over the support set; a copy of the weights stored a task.
    Raises: `Diverged`.
    Paper: Nichol, Achiam, Schulman, arXiv:1803.02999, algorithm 2, section 6.1 (Adam without momentum inside).
    Departs from it: the head at zero; the whole support set in each step of an adaptation; normalisation never sees a
    batch (decision record 1).
    """

    paper: ClassVar[str] = "Nichol, Achiam, Schulman, arXiv:1803.02999 (Reptile)"
    cost: ClassVar[str] = "3 * steps passes over the support set; a copy of the backbone's weights stored a task"
    Settings: ClassVar[type[LearnerSettings]] = ReptileSettings

    @property
    def head_at_zero(self) -> bool:
        """The head starts at zero."""
        return True

    @property
    def second_order(self) -> bool:
        """Never."""
        return False

    def begin(self, features: Features, shares: Float[Tensor, "s way"]) -> tuple[Weights, Update]:
        """Start at zero, and take the optimiser's steps."""
        rates = rates_at(
            [*self.weights(), *HEAD],
            shares.new_tensor(self.settings.learning_rate),
            shares.new_tensor(self.settings.head_learning_rate),
        )
        update = at_rates(lambda _: rates) if self.settings.optimiser == "sgd" else Adam(rates, momentum=0.0)
        return self.zero_head(features, shares), update

    def episode_loss(self, episode: Episode) -> Float[Tensor, ""]:
        """Mean loss of the inner steps, with the gradient theta - phi; in evaluation mode the loss of the queries."""
        if not self.training:
            return super().episode_loss(episode)
        with torch.no_grad():
            losses, phi = self._trained(episode)
        gaps = [((one - phi[name]).detach() * (one - one.detach())).sum() for name, one in self.weights().items()]
        loss = torch.stack(losses).mean() + sum(gaps)
        self.refuse_unless(bool(loss.isfinite()))
        return loss

    def _trained(self, episode: Episode) -> tuple[list[Tensor], Weights]:
        """The inner loop of meta-training: the losses, and the weights that it leads to."""
        support = episode.support
        inputs = torch.cat([support.inputs, episode.query_inputs])
        labels = torch.cat([support.labels, episode.query_labels])
        parts = [
            self.support_loss(inputs[rows], labels[rows], support.way, past)
            for rows in _batches(labels, self.settings.shots_a_batch)
        ]
        start = self.start(parts[0])
        weights, losses = start.weights, []
        for step in range(self.settings.training_steps):
            before, slopes = parts[step % len(parts)].slopes(weights, head_alone=step == 0)
            weights = start.update(step, weights, slopes)
            losses.append(before)
        return losses, weights


def _batches(labels: Int64[Tensor, " n"], shots: int) -> Iterator[Int64[Tensor, " rows"]]:
    """Row numbers, dealt out so that each batch holds `shots` examples of every class that has as many left."""
    own = labels[:, None] == labels
    place = own.tril(-1).sum(dim=1)
    for batch in range(int(place.max()) // shots + 1):
        yield (place // shots == batch).nonzero()[:, 0]
