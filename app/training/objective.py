"""What a stage minimises: the meta-loss of the recipe's learner over the episodes of a step."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, ClassVar, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from app.backbones._base import Backbone
from app.core.episode import Episode
from app.learners._base import EmbeddingLearner, Learner
from app.learners._inner_loop import Diverged
from app.training.augment import augment
from app.training.data_section import Augmentation
from app.training.embedding import trimmed, widened
from app.training.parallel import Ranks
from app.training.recipe import Episodes, Stage
from app.training.sampler import Pool, draw, episode_generator, to_episode

Mode = Literal["loop", "workers", "vmap"]

_BACKBONE = "learner.backbone."


class Objective(nn.Module, ABC):
    """A module whose parameters are what a stage trains, and whose forward is a loss.

    `unit` is what it counts a step in ("episodes", "examples"), `per_step` how many of them a step takes over all
    ranks. Draws depend on the seed and a number alone: not on the rank, nor on what was drawn before. `diverged` counts
    this rank's episodes of a step that were left out; there are none where `may_diverge` is false.
    """

    unit: ClassVar[str]
    per_step: int

    def __init__(self, stage: Stage, seed: int, ranks: Ranks) -> None:
        super().__init__()
        self.stage = stage
        self.seed = seed
        self.ranks = ranks
        self.diverged = 0
        self.amp = stage.optimiser.amp == "on" or (stage.optimiser.amp == "gpu" and ranks.device.type == "cuda")

    @property
    def may_diverge(self) -> bool:
        """Whether a part of a step can be left out."""
        return False

    @abstractmethod
    def parts(self, step: int) -> list[list[int]]:
        """This rank's share of a step, in parts that are computed one after the other."""

    @abstractmethod
    def forward(self, numbers: list[int]) -> Float[Tensor, ""]:
        """The loss of one part. Summed over the parts and averaged over the ranks, it is the mean loss of the step."""

    @property
    @abstractmethod
    def network(self) -> Backbone:
        """The backbone."""

    def set_progress(self, done: float) -> None:
        """Hear of the share of the stage that is done, before each step."""
        del done

    def weights(self) -> dict[str, Tensor]:
        """What the stage may change: parameters and running statistics, not copied."""
        return self.state_dict()

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Copy in what `weights` gave. Raises: `RuntimeError` for other names or shapes."""
        self.load_state_dict(weights)

    def own_parameters(self) -> list[nn.Parameter]:
        """What is trained beside the network and is not decayed."""
        return []

    def network_parameters(self) -> list[nn.Parameter]:
        """The rest."""
        own = {id(one) for one in self.own_parameters()}
        return [one for one in self.parameters() if id(one) not in own]

    def autocast(self) -> torch.autocast:
        """Computes in bfloat16 where the recipe wants it here."""
        return torch.autocast(self.ranks.device.type, torch.bfloat16, enabled=self.amp)


@final
class EpisodesObjective(Objective):
    """Mean loss of the learner over the splits and episodes of a step.

    A learner on embeddings sees the support and the queries of an episode in one pass: batch normalisation takes its
    statistics from both, but never from another episode, so that the gradient is the same however the episodes are
    shared out. An episode whose inner loop diverges (the learner's `Diverged`) adds nothing, and is counted. `frozen`:
    the pool holds embeddings, and the network is left out.
    """

    unit = "episodes"

    def __init__(
        self, learner: Learner[Any], pool: Pool, stage: Stage, seed: int, ranks: Ranks, *, frozen: bool = False
    ) -> None:
        super().__init__(stage, seed, ranks)
        assert stage.episodes is not None  # noqa: S101 (a recipe checks it)
        self.plan: Episodes = stage.episodes
        self.learner = learner
        self.pool = pool
        self.frozen = frozen
        self.mode: Mode = "loop"
        self.per_step = self.plan.meta_batch

    @property
    def network(self) -> Backbone:
        """The learner's backbone."""
        return self.learner.backbone

    @property
    def may_diverge(self) -> bool:
        """Whether the learner has an inner loop that refuses numbers that are not finite."""
        return not isinstance(self.learner, EmbeddingLearner)

    def set_progress(self, done: float) -> None:
        """Some learners change their loss as training goes on."""
        self.learner.training_progress = done

    def weights(self) -> dict[str, Tensor]:
        """The learner's; of a frozen one, without its backbone."""
        kept = self.state_dict()
        return {name: one for name, one in kept.items() if not (self.frozen and name.startswith(_BACKBONE))}

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Copy in what `weights` gave. Raises: `RuntimeError` for other names or shapes."""
        self.load_state_dict({**self.state_dict(), **weights} if self.frozen else weights)

    def own_parameters(self) -> list[nn.Parameter]:
        """All of the learner's that is not its backbone's."""
        backbone = {id(one) for one in self.learner.backbone.parameters()}
        return [one for one in self.learner.parameters() if id(one) not in backbone]

    def parts(self, step: int) -> list[list[int]]:
        """One part an episode, or all in one for `vmap`."""
        first = step * self.per_step
        numbers = self.ranks.share(range(first, first + self.per_step))
        return [numbers] if self.mode == "vmap" else [[one] for one in numbers]

    def forward(self, numbers: list[int]) -> Float[Tensor, ""]:
        """Draw the episodes of these numbers and sum up their losses, as shares of the step's mean."""
        weight = self.ranks.world / self.per_step
        generators = [episode_generator(self.seed, number) for number in numbers]
        drawn = [self._drawn(generator) for generator in generators]
        with seeded(generators[0], self.ranks.device), self.autocast():
            if self.mode == "vmap":
                # A task that diverges would spoil the slopes of those beside it: then they go one after the other.
                with suppress(Diverged):
                    return self._side_by_side(drawn) * (weight * len(numbers))
            return torch.stack([self._loss_or_nothing(one) for one in drawn]).sum() * weight

    def alone(self, number: int) -> Float[Tensor, ""]:
        """`forward` of one episode, for a network that draws nothing: torch's global generators are left alone."""
        drawn = self._drawn(episode_generator(self.seed, number))
        with self.autocast():
            return self._loss_or_nothing(drawn) * (self.ranks.world / self.per_step)

    def _drawn(self, generator: torch.Generator) -> Tensor:
        """The examples of one episode (way, images, ...), changed at random."""
        rows = draw(self.pool, self.plan.way, self.plan.each, generator)
        return changed(self.pool.take(rows).to(self.ranks.device), self.stage.augmentation, generator)

    def _side_by_side(self, drawn: Sequence[Tensor]) -> Tensor:
        """Mean over all splits of all episodes."""
        episodes = [to_episode(one, self.plan.shot, turn) for one in drawn for turn in range(self.plan.splits)]
        return self.learner.vmapped_loss(episodes)

    def _loss_or_nothing(self, inputs: Tensor) -> Tensor:
        """`_loss`; of an episode that diverged a zero, whose gradient is zero: data parallel training wants one."""
        try:
            return self._loss(inputs)
        except Diverged:
            self.diverged += 1
            return next(one for one in self.parameters() if one.requires_grad).flatten()[:0].sum()

    def _loss(self, inputs: Tensor) -> Tensor:
        """Mean over the splits of one episode."""
        plan = self.plan
        if isinstance(self.learner, EmbeddingLearner):
            features = inputs if self.frozen else self._embedded(inputs)
            episodes = _splits(features, plan)
            with torch.autocast(self.ranks.device.type, enabled=False):
                return torch.stack([self.learner.feature_loss(one) for one in episodes]).mean()
        return torch.stack([self.learner.episode_loss(one) for one in _splits(inputs, plan)]).mean()

    def _embedded(self, inputs: Tensor) -> Tensor:
        flat = trimmed(self.learner.backbone, inputs.flatten(0, 1))
        features: Tensor = self.learner.backbone(flat)
        return widened(features).reshape(*inputs.shape[:2], -1)


def changed(inputs: Tensor, how: Augmentation, generator: torch.Generator) -> Tensor:
    """Augmented examples; without augmentation, the examples (of any modality) as they are."""
    return inputs if how == Augmentation() else augment(inputs, how, generator)


@contextmanager
def seeded(generator: torch.Generator, device: torch.device) -> Iterator[None]:
    """Let dropout and the like draw from an episode's own stream; torch's global generators are put back after."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        yield


def backbone_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The backbone's part of the weights of any objective."""
    for prefix in (_BACKBONE, "backbone."):
        found = {name.removeprefix(prefix): one for name, one in weights.items() if name.startswith(prefix)}
        if found:
            return found
    return {}


def _splits(inputs: Tensor, plan: Episodes) -> Sequence[Episode]:
    return [to_episode(inputs, plan.shot, turn) for turn in range(plan.splits)]
