"""A learned optimizer: an LSTM, the same for every weight, that moves a linear head."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final, NamedTuple, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from app.backbones._base import Backbone
from app.core.episode import Episode, TaskState
from app.core.heartbeat import beat_now
from app.learners._base import EmbeddingLearner, EmbeddingSettings, LearnerSettings, one_hot
from app.learners._head_loop import Head, HeadTask, Stacked, embedded, head_scores, held_out_scores

_CLIP: Final = 10.0
"""p of the paper's gradient preprocessing."""

_EXACT_BELOW = 20_000
"""Weights of a head up to which the steps run in float64; above, float32 halves time and memory."""

_AT_ONCE = 65_536
"""Weights that pass through the network together: what a step needs in memory does not grow further."""


@final
@dataclass(frozen=True)
class LearnedOptimizerSettings(EmbeddingSettings):
    """Settings of `LearnedOptimizer`."""

    steps: int = field(
        default=10,
        metadata={
            "description": "Steps it takes; it was meta-trained for as many as the checkpoint's default.",
            "minimum": 0,
            "maximum": 1000,
        },
    )
    hidden: int = field(
        default=20, metadata={"description": "Units of each of its two LSTM layers.", "minimum": 1, "maximum": 256}
    )
    regularisation: float = field(
        default=0.01,
        metadata={
            "description": "Penalty on leaving the start, per example of loss and in units of the support's spread.",
            "minimum": 0.0,
            "maximum": 1e6,
        },
    )
    temperature: float = field(
        default=2.0,
        metadata={
            "description": "Sharpness of the prototypes that the head starts at; 0 starts at zero.",
            "minimum": 0.0,
            "maximum": 1e3,
        },
    )
    meta_loss: str = field(
        default="trajectory",
        metadata={
            "description": "What meta-training lowers: the loss it optimises, summed over its steps, or the queries'.",
            "choices": ("trajectory", "query"),
        },
    )
    first_order: bool = field(
        default=True,
        metadata={"description": "Meta-train past the gradients that it is given, instead of through them."},
    )
    truncation: int = field(
        default=0,
        metadata={
            "description": "Steps after which meta-training cuts the graph; 0 for never.",
            "minimum": 0,
            "maximum": 1000,
        },
    )


class _Memory(NamedTuple):
    """What the two layers remember of each weight: outputs and cells."""

    outputs: tuple[Float[Tensor, "k hidden"], Float[Tensor, "k hidden"]]
    cells: tuple[Float[Tensor, "k hidden"], Float[Tensor, "k hidden"]]


@final
class LearnedOptimizer(EmbeddingLearner[LearnedOptimizerSettings]):
    """Moves a linear head by the steps that an LSTM, meta-trained for it, reads off the gradients.

    It optimises the objective of `logistic`, over `s / way`: with z = (x - c) / u, where c is the mean of the class
    means and u the support set's spread, f = sum over classes of the mean cross-entropy of their examples
    + regularisation / (2 mean shot) |W - W0|^2, from W0, b0, the prototypes' linear scores at `temperature`. One
    network with two layers sees each weight alone: its gradient, and what it remembers of it. Numbers of classes,
    examples and dimensions are therefore free; so that they are no matter either, the weights are counted in
    1 / sqrt(dim). Before meta-training the network says zero: the head stays at the prototypes.

    State: `weights`, float (dim, way), per u; `bias`, float (way,); `centre`, float (dim,), in u; `unit`, float ();
    `support_losses`, float (steps + 1,), f / way before each step and at the end, in nats.
    Logits: W z + b; softmax gives probabilities.
    Cost: one backbone pass; some 12 hidden^2 products a step and weight; dim * way numbers stored.
    Raises: nothing.
    Paper: Andrychowicz et al., NeurIPS 2016, arXiv:1606.04474, eq. 1 (the step), eq. 3 (the sum of losses, weights 1),
    section 2 (gradients of gradients dropped), section 2.1 (coordinatewise LSTM), appendix A (preprocessing).
    Departs from it: the start; the scale of the gradients and steps; meta-training on the queries, if set.
    """

    paper: ClassVar[str] = "Andrychowicz et al., NeurIPS 2016, arXiv:1606.04474"
    cost: ClassVar[str] = "one pass over the support set; steps * dim * way * 12 hidden^2 products to fit"
    Settings: ClassVar[type[LearnerSettings]] = LearnedOptimizerSettings
    stacks: ClassVar[bool] = True
    by_name_only: ClassVar[bool] = True
    vmaps: ClassVar[bool] = True

    def __init__(self, backbone: Backbone, settings: LearnedOptimizerSettings) -> None:
        super().__init__(backbone, settings)
        self.layers = nn.ModuleList([nn.LSTMCell(2, settings.hidden), nn.LSTMCell(settings.hidden, settings.hidden)])
        self.output = nn.Linear(settings.hidden, 1)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def fit(self, features: Float[Tensor, "s dim"], labels: Int64[Tensor, " s"], way: int) -> TaskState:
        """Take the steps; in training mode the graph is kept."""
        with torch.set_grad_enabled(self.training and torch.is_grad_enabled()):
            embeddings = self.prepare(features)
            return self._fitted(embeddings, one_hot(labels, way, embeddings))

    def score(self, state: TaskState, features: Float[Tensor, "*t q dim"]) -> Float[Tensor, "*t q way"]:
        """Linear scores of embedded queries."""
        return head_scores(state, self.prepare(features))

    def episode_loss(self, episode: Episode) -> Float[Tensor, ""]:
        """What `meta_loss` says: the sum of f / way after each step (eq. 3), or the queries' cross-entropy."""
        if self.settings.meta_loss == "query":
            return super().episode_loss(episode)
        losses: Tensor = self.adapt(episode.support)["support_losses"][1:].sum()
        return losses

    def feature_loss(self, episode: Episode) -> Float[Tensor, ""]:
        """`episode_loss` of an episode whose inputs are embeddings already."""
        if self.settings.meta_loss == "query":
            return super().feature_loss(episode)
        support = episode.support
        losses: Tensor = self.fit(support.inputs, support.labels, support.way)["support_losses"][1:].sum()
        return losses

    def vmapped_loss(self, episodes: Sequence[Episode]) -> Float[Tensor, ""]:
        """Mean `episode_loss` of episodes of equal shapes, their heads side by side."""
        return self.vmapped_feature_loss(embedded(self.backbone, episodes))

    def vmapped_feature_loss(self, episodes: Sequence[Episode]) -> Float[Tensor, ""]:
        """`vmapped_loss` of episodes whose inputs are embeddings already."""
        stacked = Stacked.of(self.prepare, episodes)
        if self.settings.meta_loss == "query":
            return stacked.query_loss(self._fitted)
        states = torch.func.vmap(self._fitted)(stacked.support, stacked.targets)
        losses: Tensor = states["support_losses"][:, 1:].sum(dim=1).mean()
        return losses

    @torch.no_grad()
    def cross_validate(
        self, features: Float[Tensor, "s dim"], labels: Int64[Tensor, " s"], way: int, folds: Int64[Tensor, " s"]
    ) -> Float[Tensor, "s way"]:
        """All folds side by side."""
        return held_out_scores(self._fitted, self.prepare(features), labels, way, folds)

    def held_out_products(self, examples: int, dim: int, way: int, folds: int) -> int:
        """The network on every weight, and two products, a step in each fold."""
        network = 4 * self.settings.hidden * (2 + 3 * self.settings.hidden)
        return folds * (self.settings.steps + 1) * dim * way * (network + 2 * examples)

    def _fitted(self, embeddings: Float[Tensor, "s dim"], targets: Float[Tensor, "s way"]) -> dict[str, Tensor]:
        """The steps; safe under `vmap`."""
        kind = torch.float64 if embeddings.shape[1] * targets.shape[1] <= _EXACT_BELOW else torch.float32
        task = HeadTask.of(embeddings, targets).to(kind)
        start = task.prototype_head(torch.tensor(self.settings.temperature))
        penalty = self.settings.regularisation * task.way / targets.sum().to(kind)
        head, memory = start, self._blank(start)
        losses = [objective(task, head, start, penalty)]
        for step in range(self.settings.steps):
            slope = task.slope(head)
            slope = Head(slope.weights + penalty * (head.weights - start.weights), slope.bias)
            move, memory = self._step(slope.detached() if self.settings.first_order else slope, memory)
            head = Head(head.weights + move.weights, head.bias + move.bias)
            losses.append(objective(task, head, start, penalty))
            if self.settings.truncation and (step + 1) % self.settings.truncation == 0:
                head, memory = head.detached(), _detached(memory)
            beat_now()
        return task.state(head, losses, embeddings.dtype)

    def _blank(self, head: Head) -> _Memory:
        count = head.weights.numel() + head.bias.numel()
        zeros = head.bias.new_zeros(count, self.settings.hidden)
        return _Memory((zeros, zeros), (zeros, zeros))

    def _step(self, slope: Head, memory: _Memory) -> tuple[Head, _Memory]:
        """What to add to the head (eq. 1), each weight by itself."""
        dim, way = slope.weights.shape
        length = math.sqrt(dim)
        gradients = torch.cat([slope.weights * length, slope.bias[None]]).flatten()
        says, memory = self._network(preprocessed(gradients), memory)
        move = says.view(dim + 1, way)
        return Head(move[:-1] / length, move[-1]), memory

    def _network(self, seen: Float[Tensor, "k 2"], memory: _Memory) -> tuple[Float[Tensor, " k"], _Memory]:
        """Two LSTM layers and a linear one, a part of the weights at a time."""
        outputs: list[Tensor] = []
        cells: list[Tensor] = []
        below = seen
        for layer, output, cell in zip(self.layers, memory.outputs, memory.cells, strict=True):
            parts = zip(_parts(below), _parts(output), _parts(cell), strict=True)
            pairs = [_lstm(layer, *part) for part in parts]
            below = torch.cat([one for one, _ in pairs])
            outputs.append(below)
            cells.append(torch.cat([one for _, one in pairs]))
        says = below @ self.output.weight[0].to(seen) + self.output.bias.to(seen)
        return says, _Memory((outputs[0], outputs[1]), (cells[0], cells[1]))


def preprocessed(gradients: Float[Tensor, " k"]) -> Float[Tensor, "k 2"]:
    """(log |g| / p, sign g) where |g| >= exp(-p), else (-1, exp(p) g): appendix A, with p = 10."""
    size = gradients.abs()
    large = size >= math.exp(-_CLIP)
    # Where it is not taken, the logarithm must have no infinite slope: zero times that is no number.
    logs = torch.where(large, size, torch.ones_like(size)).log() / _CLIP
    first = torch.where(large, logs, -torch.ones_like(size))
    second = torch.where(large, gradients.sign(), math.exp(_CLIP) * gradients)
    return torch.stack([first, second], dim=1)


def _parts(rows: Tensor) -> Sequence[Tensor]:
    return torch.split(rows, _AT_ONCE)


def _lstm(
    layer: nn.Module,
    below: Float[Tensor, "k below"],
    output: Float[Tensor, "k hidden"],
    cell: Float[Tensor, "k hidden"],
) -> tuple[Float[Tensor, "k hidden"], Float[Tensor, "k hidden"]]:
    """A step of an `nn.LSTMCell` in the type of its input, by operations that `vmap` knows: its output and its cell."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    from_below, from_before, shift, second_shift = (layer.get_parameter(name).to(below) for name in names)
    gates = below @ from_below.T + output @ from_before.T + shift + second_shift
    entry, forget, new, exit_ = gates.chunk(4, dim=1)
    cell = forget.sigmoid() * cell + entry.sigmoid() * new.tanh()
    return exit_.sigmoid() * cell.tanh(), cell


def objective(task: HeadTask, head: Head, start: Head, penalty: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """f over `way`, in nats."""
    return task.loss(head) + penalty / (2 * task.way) * (head.weights - start.weights).square().sum()


def _detached(memory: _Memory) -> _Memory:
    (a, b), (c, d) = memory
    return _Memory((a.detach(), b.detach()), (c.detach(), d.detach()))
