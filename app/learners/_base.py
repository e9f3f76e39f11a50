"""What every learner is: a few-shot algorithm without task state."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import ClassVar, Final, Generic, TypeVar

import torch
from jaxtyping import Float, Float64, Int64, Shaped
from torch import Tensor, nn

from app.backbones._base import Backbone
from app.core.episode import Episode, Support, TaskState
from app.core.errors import InvalidSetting
from app.learners._distance import unit_vectors
from app.learners._settings import LearnerSettings

__all__ = ["EmbeddingLearner", "EmbeddingSettings", "Learner", "LearnerSettings", "one_hot"]

S = TypeVar("S", bound=LearnerSettings)
E = TypeVar("E", bound="EmbeddingSettings")

_ELSEWHERE: Final = ("backbone", "offsets")
"""Where a learner's parameters lie that are not its own: the checkpoint's weights, and what goes into the settings."""


class Learner(nn.Module, ABC, Generic[S]):
    """A few-shot algorithm. It holds no task state: one instance serves all tasks.

    Beside the backbone's weights, meta-training may learn two things of it: the settings that `learnable` names, each
    a float above 0, and parameters of its own (rates, a network). The first go back into the card as settings
    (`learned_settings`), the second are stored beside the backbone's weights (`own_state`).
    """

    paper: ClassVar[str]
    cost: ClassVar[str]
    Settings: ClassVar[type[LearnerSettings]]
    learnable: ClassVar[tuple[str, ...]] = ()
    vmaps: ClassVar[bool] = False
    """Whether there is a `vmapped_loss`."""
    by_name_only: ClassVar[bool] = False
    """Whether `auto` passes it over, because judging it costs more than judging all the others."""
    training_progress: float = 0.0
    """The share of the meta-training that is done, 0 to 1: the loop sets it before each step."""

    def __init__(self, backbone: Backbone, settings: S) -> None:
        super().__init__()
        self.backbone = backbone
        self.settings: S = settings
        self.offsets = nn.ParameterDict(
            {name: nn.Parameter(torch.zeros((), dtype=torch.float64)) for name in self.learnable}
        )

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

    def vmapped_loss(self, episodes: Sequence[Episode]) -> Float[Tensor, ""]:
        """Mean `episode_loss` of episodes of equal shapes, all at once.

        Raises: `NotImplementedError` where `vmaps` is false.
        """
        raise NotImplementedError(f"{type(self).__name__} takes its episodes one by one")

    @property
    def ways(self) -> tuple[int, int] | None:
        """The least and the most classes that this learner serves; None for any number."""
        return None

    def value(self, name: str) -> Float64[Tensor, ""]:
        """A learnable setting as it now is: what was set, exactly, until training moves it.

        In evaluation mode it is cut off from autograd, so that a state keeps no graph.
        """
        offset: Tensor = self.offsets[name]
        return float(getattr(self.settings, name)) * (offset if self.training else offset.detach()).exp()

    def learned_settings(self) -> dict[str, float]:
        """The learnable settings as training left them, kept within their ranges."""
        about = {one.name: one.metadata for one in fields(self.settings)}
        found = {name: float(self.value(name).detach()) for name in self.learnable}
        return {
            name: min(max(value, about[name].get("minimum", value)), about[name].get("maximum", value))
            for name, value in found.items()
        }

    def own_state(self) -> dict[str, Tensor]:
        """What meta-training learned beyond the backbone and the settings; empty for most learners."""
        own: dict[str, Tensor] = {}
        # Not by `state_dict` of the whole: a start builds dozens of learners, and a backbone has hundreds of tensors.
        self._save_to_state_dict(own, prefix="", keep_vars=False)
        for name, child in self.named_children():
            if name not in _ELSEWHERE:
                own |= child.state_dict(prefix=f"{name}.")
        return own

    def load_own_state(self, weights: Mapping[str, Tensor]) -> None:
        """Take over what `own_state` gave. Raises: `RuntimeError` naming what is missing, unknown or misshapen."""
        own = self.own_state()
        if set(own) != set(weights):
            missing, unknown = sorted(set(own) - set(weights)), sorted(set(weights) - set(own))
            raise RuntimeError(f"{type(self).__name__}: missing keys {missing}, unknown keys {unknown}")
        if own:
            self.load_state_dict(dict(weights), strict=False)

    def cross_validate(
        self, rows: Shaped[Tensor, "s ..."], labels: Int64[Tensor, " s"], way: int, folds: Int64[Tensor, " s"]
    ) -> Float[Tensor, "s way"]:
        """Row `i`: logits of example `i` by a state made from the other folds; NaN where its fold is -1.

        `rows` are what the learner works on: inputs, or embeddings for an `EmbeddingLearner`. Examples of fold -1 are
        taken in every fold. Every class must keep an example in each.
        """
        scores: Tensor | None = None
        for fold in range(int(folds.max()) + 1):
            out = folds == fold
            found = self._held_out_logits(rows[~out], labels[~out], way, rows[out])
            if scores is None:
                scores = found.new_full((len(rows), way), math.nan)
            scores[out] = found
        if scores is None:
            return torch.full((len(rows), way), math.nan, device=rows.device)
        return scores

    def held_out_products(self, examples: int, dim: int, way: int, folds: int) -> int:
        """About how many multiplications `cross_validate` takes."""
        return folds * examples * dim * (way + min(examples, dim))

    def _held_out_logits(
        self, rows: Shaped[Tensor, "s ..."], labels: Int64[Tensor, " s"], way: int, queries: Shaped[Tensor, "q ..."]
    ) -> Float[Tensor, "q way"]:
        return self.logits(self.adapt(Support(rows, labels, way)), queries)


@dataclass(frozen=True)
class EmbeddingSettings(LearnerSettings):
    """What the settings of every learner on embeddings hold."""

    normalise: bool = field(default=False, metadata={"description": "Scale each embedding to length one first."})
    projection: int = field(
        default=0,
        metadata={
            "description": "Numbers that the checkpoint's meta-trained projection makes of an embedding; 0 for none.",
            "minimum": 0,
            "maximum": 4096,
        },
    )


class EmbeddingLearner(Learner[E], ABC):
    """One backbone pass, then a head fitted on the embeddings. Knows its held-out scores cheaply."""

    stacks: ClassVar[bool] = False
    """Whether `score` takes several tasks at once."""

    def __init__(self, backbone: Backbone, settings: E) -> None:
        super().__init__(backbone, settings)
        if settings.projection:
            if backbone.dim is None:
                raise InvalidSetting(
                    "A backbone whose dim is that of its input has no projection.", pointer="/projection"
                )
            self.projection = nn.Linear(backbone.dim, settings.projection, bias=False)
            nn.init.eye_(self.projection.weight)

    @abstractmethod
    def fit(self, features: Float[Tensor, "s dim"], labels: Int64[Tensor, " s"], way: int) -> TaskState:
        """Fit the head on the support set's embeddings."""

    @abstractmethod
    def score(self, state: TaskState, features: Float[Tensor, "*t q dim"]) -> Float[Tensor, "*t q way"]:
        """Logits of embedded queries. A learner that `stacks` takes several tasks at once: one more axis in front, of
        the features and of each tensor of the state."""

    def score_each(self, states: Sequence[TaskState], features: Float[Tensor, "t q dim"]) -> Float[Tensor, "t q way"]:
        """Logits of as many queries for each of several tasks, whose states agree in their shapes: `score` of each, up
        to rounding. No task's numbers depend on another's."""
        if not self.stacks:
            return torch.stack([self.score(state, own) for state, own in zip(states, features, strict=True)])
        return self.score({name: torch.stack([one[name] for one in states]) for name in states[0]}, features)

    def prepare(self, features: Float[Tensor, "*t n dim"]) -> Float[Tensor, "*t n dim2"]:
        """The embeddings as the settings `projection` and `normalise` want them; heads are fitted on these."""
        if self.settings.projection:
            features = self.projection(features)
        return unit_vectors(features) if self.settings.normalise else features

    def adapt(self, support: Support) -> TaskState:
        """Embed the support set and fit the head."""
        return self.fit(self.backbone(support.inputs), support.labels, support.way)

    def logits(self, state: TaskState, inputs: Shaped[Tensor, "q ..."]) -> Float[Tensor, "q way"]:
        """Embed the queries and score them."""
        return self.score(state, self.backbone(inputs))

    def feature_loss(self, episode: Episode) -> Float[Tensor, ""]:
        """`episode_loss` of an episode whose inputs are embeddings already."""
        support = episode.support
        state = self.fit(support.inputs, support.labels, support.way)
        return nn.functional.cross_entropy(self.score(state, episode.query_inputs), episode.query_labels)

    def leave_one_out(
        self, features: Float[Tensor, "s dim"], labels: Int64[Tensor, " s"], way: int
    ) -> Float[Tensor, "s way"] | None:
        """Row `i`: logits of example `i` by a head fitted on the others, in closed form.

        `None` where no closed form exists: then the caller refits. A class whose only example is held
        out scores minus infinity.
        """
        del features, labels, way
        return None

    def _held_out_logits(
        self, rows: Float[Tensor, "s dim"], labels: Int64[Tensor, " s"], way: int, queries: Float[Tensor, "q dim"]
    ) -> Float[Tensor, "q way"]:
        return self.score(self.fit(rows, labels, way), queries)


def one_hot(labels: Int64[Tensor, " s"], way: int, like: Tensor) -> Float[Tensor, "s way"]:
    """Indicator matrix in the type of `like`."""
    return torch.nn.functional.one_hot(labels, way).to(like.dtype)
