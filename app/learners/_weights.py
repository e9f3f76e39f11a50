"""What every learner is that adapts the backbone's own weights."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor, nn

from app.core.episode import Episode, Support, TaskState
from app.core.heartbeat import beat_now
from app.learners._base import Learner, LearnerSettings
from app.learners._inner_loop import (
    BACKBONE,
    BIAS,
    WEIGHT,
    Differentiate,
    Diverged,
    Embed,
    Start,
    SupportLoss,
    Update,
    Weights,
    class_shares,
    descend,
    finite,
    head_logits,
    past,
    side_by_side,
    through,
    wide,
)
from app.learners._mode import as_served

__all__ = ["WeightLearner", "WeightSettings", "as_served"]

W = TypeVar("W", bound="WeightSettings")

Features = Callable[[], Tensor]

_AT_ONCE = 4
"""Tasks side by side on a CPU: more of them do not fit its caches."""

_JUDGING = 100_000_000_000
"""Products that judging may take: a few seconds of a CPU."""

_REUSE = 100
"""About how often a small convolutional network uses each of its weights for one example."""


@dataclass(frozen=True)
class WeightSettings(LearnerSettings):
    """What the settings of every learner that adapts weights hold."""

    steps: int = field(
        default=5,
        metadata={"description": "Inner steps when a task is adapted.", "minimum": 1, "maximum": 1000},
    )
    training_steps: int = field(
        default=5, metadata={"description": "Inner steps during meta-training.", "minimum": 1, "maximum": 100}
    )
    learning_rate: float = field(
        default=0.01,
        metadata={"description": "Inner learning rate of the backbone's weights.", "above": 0.0, "maximum": 1e3},
    )
    head_learning_rate: float = field(
        default=0.1, metadata={"description": "Inner learning rate of the head.", "above": 0.0, "maximum": 1e3}
    )


class WeightLearner(Learner[W], ABC):
    """Adapts all weights of the backbone, and a linear softmax head over it, by steps on the support set.

    The weights are passed to the backbone (`torch.func.functional_call`): nothing is copied, and the backbone itself
    stays as it is; but two threads must not adapt over one backbone at the same time. The backbone runs as it does in
    evaluation mode, in training too: batch normalisation by its running statistics, which are the same for all tasks
    and are not learned here (decision record 1).

    State: `backbone.<parameter>` for each of the backbone's; `head.weight`, float (way, dim); `head.bias`, float
    (way,); `support_losses`, float (steps + 1,), the support set's cross-entropy before each step and at the end, nats.
    In evaluation mode the state is detached and the memory of a step is bounded; in training mode it has its graph.
    """

    @abstractmethod
    def begin(self, features: Features, shares: Float[Tensor, "*t s way"]) -> tuple[Weights, Update]:
        """The head that an adaptation starts at, and its steps; `features()` embeds the support set.

        Where `vmaps` is true it runs under `torch.func.vmap`, and for several tasks side by side.
        """

    @property
    def head_at_zero(self) -> bool:
        """Whether the head starts at zero, so that the first step moves it alone."""
        return False

    @property
    def second_order(self) -> bool:
        """Whether a loss after the inner loop is differentiated through its slopes."""
        return True

    def query_shares(self, steps: int) -> Sequence[float]:
        """The weight of the queries' loss after each inner step, in training."""
        return [0.0] * (steps - 1) + [1.0]

    def finished(self, weights: Weights) -> Weights:
        """What is kept of the weights after the last step, and scores queries."""
        return weights

    def adapt(self, support: Support, on_step: Callable[[], None] = beat_now) -> TaskState:
        """Take the steps; `on_step` is called at least once in each. Raises: `Diverged`."""
        with torch.set_grad_enabled(self.training):
            state = self.adapted(support.inputs, support.labels, support.way, self._differentiate, on_step)
        self.refuse_unless(finite(state))
        return state

    def adapted(
        self,
        inputs: Shaped[Tensor, "s ..."],
        labels: Int64[Tensor, " s"],
        way: int,
        differentiate: Differentiate,
        on_step: Callable[[], None],
    ) -> Weights:
        """The state, finite or not. Where `vmaps` is true it runs under `torch.func.vmap`, by `side_by_side`."""
        loss = self.support_loss(inputs, labels, way, differentiate, on_step)
        start = self.start(loss)
        weights, losses = start.weights, []
        for before, after in self._descend(loss, start):
            losses.append(before)
            weights = after
        with torch.no_grad():
            losses.append(loss.value(weights))
        state = {**self.finished(weights), "support_losses": torch.stack(losses)}
        return state if self.training else {name: self._kept(one) for name, one in state.items()}

    def logits(self, state: TaskState, inputs: Shaped[Tensor, "q ..."]) -> Float[Tensor, "q way"]:
        """Score queries by the task's own weights."""
        weights = dict(state)
        features = self.embed(weights, inputs)
        return head_logits(wide(weights), features).to(features)

    def episode_loss(self, episode: Episode) -> Float[Tensor, ""]:
        """Cross-entropy of the queries after adapting to the support. Raises: `Diverged`."""
        support = episode.support
        with torch.set_grad_enabled(self.training):
            given = support.inputs, support.labels, episode.query_inputs, episode.query_labels
            loss = self._query_loss(self._differentiate, self.embed, support.way, *given)
        self.refuse_unless(bool(loss.isfinite()))
        return loss

    def vmapped_loss(self, episodes: Sequence[Episode]) -> Float[Tensor, ""]:
        """Mean `episode_loss` of episodes of equal shapes, side by side.

        On a CPU the weights of a few tasks are stacked where the backbone takes them so, which makes each convolution
        one of several groups; else it is `torch.func.vmap`.

        Raises: `Diverged`; `ValueError` for episodes of different ways, `RuntimeError` for other shapes.
        """
        way, *others = {one.support.way for one in episodes}
        if others:
            raise ValueError("episodes that run side by side must have one way")
        several = [
            torch.stack(part)
            for part in zip(
                *((one.support.inputs, one.support.labels, one.query_inputs, one.query_labels) for one in episodes),
                strict=True,
            )
        ]
        on_cpu = several[0].device.type == "cpu"
        if on_cpu and self.backbone.stacks:
            parts = zip(*(torch.split(one, _AT_ONCE) for one in several), strict=True)
            losses = torch.cat(
                [self._query_loss(self._differentiate, self._embed_stacked, way, *part) for part in parts]
            )
        else:
            core = partial(self._query_loss, side_by_side, self.embed, way)
            losses = torch.func.vmap(core, chunk_size=_AT_ONCE if on_cpu else None)(*several)
        self.refuse_unless(bool(losses.isfinite().all()))
        return losses.mean()

    def held_out_products(self, examples: int, dim: int, way: int, folds: int) -> int:
        """Each fold adapts anew, three passes a step."""
        del dim, way
        size = sum(one.numel() for one in self.backbone.parameters())
        return 3 * folds * self.settings.steps * examples * size * _REUSE

    def may_judge(self, examples: int, folds: int) -> bool:
        """Whether holding out each of so many folds takes no more than a few seconds."""
        return folds <= 3 and self.held_out_products(examples, 0, 0, folds) <= _JUDGING

    def weights(self) -> Weights:
        """The backbone's weights as tasks start at them, not copied."""
        own: Weights = {BACKBONE + name: one for name, one in self.backbone.named_parameters()}
        if not torch.is_grad_enabled():  # no graph begins here; and under `vmap` none could
            return own
        return {name: one if one.requires_grad else one.detach().requires_grad_() for name, one in own.items()}

    def embed(self, weights: Weights, inputs: Shaped[Tensor, "n ..."]) -> Float[Tensor, "n dim"]:
        """Embeddings by the given weights instead of the backbone's own."""
        own = {name.removeprefix(BACKBONE): one for name, one in weights.items() if name.startswith(BACKBONE)}
        with as_served(self.backbone):
            features: Tensor = torch.func.functional_call(self.backbone, own, (inputs,))
        return features if features.dtype == torch.float64 else features.float()

    def zero_head(self, features: Features, shares: Float[Tensor, "*t s way"]) -> Weights:
        """A head that tells no class from another; `features` are asked for only where the backbone has no dim."""
        dim = self.backbone.dim or features().shape[-1]
        bias = shares.new_zeros(*shares.shape[:-2], shares.shape[-1])
        return {WEIGHT: bias.new_zeros(*bias.shape, dim), BIAS: bias}

    @property
    def _differentiate(self) -> Differentiate:
        return through if self.training and self.second_order else past

    def _embed_stacked(self, weights: Weights, inputs: Shaped[Tensor, "t n ..."]) -> Float[Tensor, "t n dim"]:
        """`embed` for several tasks, each by its own weights."""
        features = self.embed(weights, inputs.transpose(0, 1).flatten(1, 2))
        return features.view(len(features), len(inputs), -1).transpose(0, 1)

    def _query_loss(
        self,
        differentiate: Differentiate,
        embed: Embed,
        way: int,
        inputs: Shaped[Tensor, "..."],
        labels: Int64[Tensor, "*t s"],
        query_inputs: Shaped[Tensor, "..."],
        query_labels: Int64[Tensor, "*t q"],
    ) -> Float[Tensor, "*t"]:
        loss = self.support_loss(inputs, labels, way, differentiate, embed=embed)
        shares = self.query_shares(self._step_count)
        parts = []
        for share, (_, weights) in zip(shares, self._descend(loss, self.start(loss)), strict=True):
            if share:
                scores = head_logits(self.finished(weights), embed(weights, query_inputs))
                parts.append(share * nn.functional.cross_entropy(scores.movedim(-1, 1), query_labels, reduction="none"))
        return torch.stack(parts).sum(dim=0).mean(dim=-1)

    def start(self, loss: SupportLoss) -> Start:
        """All weights that an adaptation starts at, and its steps."""
        tasks = loss.shares.shape[:-2]
        weights, passes = {name: one.expand(*tasks, *one.shape) for name, one in self.weights().items()}, []

        def features() -> Tensor:
            embeddings, passed = loss.opened(weights)
            passes.append(passed)
            return embeddings

        head, update = self.begin(features, loss.shares)
        return Start({**weights, **head}, update, passes[-1] if passes else None)

    def support_loss(
        self,
        inputs: Shaped[Tensor, "..."],
        labels: Int64[Tensor, "*t s"],
        way: int,
        differentiate: Differentiate,
        beat: Callable[[], None] = lambda: None,
        embed: Embed | None = None,
    ) -> SupportLoss:
        """What an inner loop descends on. Raises: `ValueError` for another way than a fixed head's."""
        if self.ways is not None and self.ways[0] != way:
            raise ValueError(f"{type(self).__name__}: a head of {self.ways[0]} classes, and {way} labels")
        graph = self.training and self.second_order
        chunk = len(inputs) if self.training else self.backbone.micro_batch_examples(inputs.device.type)
        # In evaluation mode the head is in float64, where the order of the examples leaves no trace.
        shares = class_shares(labels, way, self._kind if self.training else torch.float64)
        return SupportLoss(embed or self.embed, differentiate, graph, inputs, shares, chunk, beat)

    def _descend(self, loss: SupportLoss, start: Start) -> Iterator[tuple[Tensor, Weights]]:
        return descend(loss, start, self._step_count, head_at_zero=self.head_at_zero)

    def _kept(self, tensor: Tensor) -> Tensor:
        kind = self._kind if tensor.dtype == torch.float64 else tensor.dtype
        return tensor.detach().to(kind, copy=True).contiguous()

    @property
    def _kind(self) -> torch.dtype:
        """The type of embeddings."""
        kinds = {one.dtype for one in self.backbone.parameters()}
        return torch.float64 if torch.float64 in kinds else torch.float32

    @property
    def _step_count(self) -> int:
        return self.settings.training_steps if self.training else self.settings.steps

    def refuse_unless(self, fine: bool) -> None:
        if not fine:
            raise self.diverged()

    def diverged(self) -> Diverged:
        """What is wrong where numbers are not finite."""
        return Diverged(rate="learning_rate", steps="training_steps" if self.training else "steps")
