"""Gradient descent on a support set, as the learners that adapt a backbone's weights share it.

The slope of the linear softmax head is written out; that of the backbone follows from one vector-Jacobian product, in
three ways (`Differentiate`): through the inner loop, past it, or under `torch.func.vmap`. What has an axis `*t` here is
that of one task without it, and with it of several tasks side by side.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from app.core.errors import Invalid
from app.learners._distance import LOGIT_LIMIT

Weights: TypeAlias = dict[str, Tensor]
"""What is adapted: `backbone.<parameter>` for each of the backbone's, `head.weight` (way, dim), `head.bias` (way,)."""

Embed: TypeAlias = Callable[[Weights, Tensor], Tensor]
Pull: TypeAlias = Callable[[Tensor], Weights]
Pass: TypeAlias = tuple[Tensor, Pull]
Differentiate: TypeAlias = Callable[[Embed, Weights, Tensor], Pass]
"""Embeddings of inputs, and the map from a slope of a loss in the embeddings to its slope in the backbone's weights."""

Update: TypeAlias = Callable[[int, Weights, Weights], Weights]
"""Step number (from 0), weights and their slopes to the next weights. What has no slope stays."""

WEIGHT: Final = "head.weight"
BIAS: Final = "head.bias"
BACKBONE: Final = "backbone."

_FAR: Final = 1e15
"""Embeddings are cut off here for the head, so that scores of absurd queries stay finite."""


class Diverged(Invalid):
    """An inner loop whose loss or weights left the finite numbers."""

    code = "adaptation-diverged"
    title = "The adaptation diverged"

    def __init__(self, *, rate: str, steps: str) -> None:
        super().__init__(
            "The inner loop left the finite numbers on this support set. "
            f"Lower the setting {rate!r}, or take fewer steps (the setting {steps!r}).",
            pointer=f"/{rate}",
        )


def through(embed: Embed, weights: Weights, inputs: Tensor) -> Pass:
    """For training: slopes keep their graph, so that a loss after the inner loop has second-order gradients."""
    own = _backbone(weights)
    features = embed(own, inputs)

    def pull(slope: Tensor) -> Weights:
        return _vector_jacobian(features, own, slope, graph=True)

    return features, pull


def past(embed: Embed, weights: Weights, inputs: Tensor) -> Pass:
    """For serving and first-order training: slopes are plain numbers, and the graph is freed by `pull`."""
    own = {name: one.detach().requires_grad_() for name, one in _backbone(weights).items()}
    with torch.enable_grad():
        features = embed(own, inputs)

    def pull(slope: Tensor) -> Weights:
        return _vector_jacobian(features, own, slope, graph=False)

    return features.detach(), pull


def side_by_side(embed: Embed, weights: Weights, inputs: Tensor) -> Pass:
    """`through` for many tasks under `torch.func.vmap`, where only torch's functional differentiation works."""
    own = _backbone(weights)
    if not own:
        return embed(own, inputs), lambda _: {}
    features, pull, *_ = torch.func.vjp(lambda moved: embed(moved, inputs), own)

    def pull_one(slope: Tensor) -> Weights:
        (found,) = pull(slope)
        return dict(found)

    return features, pull_one


@dataclass(frozen=True, eq=False)
class SupportLoss:
    """The cross-entropy of a support set in nats, averaged within each class and then over the classes.

    `inputs` (*t s ...); `shares` (*t s way): column c holds 1 / (way * shot of c) at the examples of c. With `graph`,
    slopes are functions of the weights; without, plain numbers. Inputs go through the backbone `chunk` at a time, which
    then bounds the memory; `beat` is called after each.
    """

    embed: Embed
    differentiate: Differentiate
    graph: bool
    inputs: Shaped[Tensor, "..."]
    shares: Float[Tensor, "*t s way"]
    chunk: int
    beat: Callable[[], None]

    def features(self, weights: Weights) -> Float[Tensor, "*t s dim"]:
        """Embeddings of the support set."""
        own = _backbone(weights)
        return torch.cat([self.embed(own, some) for some, _ in self._chunks()])

    def opened(self, weights: Weights) -> tuple[Float[Tensor, "*t s dim"], Pass | None]:
        """Embeddings of the support set; and, where one pass gives both, what the first `slopes` need of it."""
        cut_off = torch.is_grad_enabled() and not self.graph
        if cut_off or len(self.inputs) > self.chunk:
            return self.features(weights), None
        passed = self.differentiate(self.embed, weights, self.inputs)
        return passed[0], passed

    def value(self, weights: Weights) -> Float[Tensor, ""]:
        """The loss. NaN where an embedding is not finite."""
        features = self.features(weights)
        bad = ~features.isfinite().all()
        return _loss(head_logits(weights, features), self.shares).masked_fill(bad, torch.nan)

    def slopes(
        self, weights: Weights, passed: Pass | None = None, *, head_alone: bool = False
    ) -> tuple[Float[Tensor, "*t"], Weights]:
        """The loss and its slopes; with `head_alone` those of the head, as where the backbone's are zero."""
        weights = weights if self.graph else {name: one.detach() for name, one in weights.items()}
        whole: tuple[Tensor, Weights] | None = None
        for some, shares in self._chunks():
            features, pull = passed or self.differentiate(self.embed, weights, some)
            value, found, slope = head_slopes(weights, features, shares)
            part = value, found if head_alone else found | pull(slope)
            whole = part if whole is None else _sum(whole, part)
            self.beat()
        assert whole is not None  # noqa: S101 (a support set has examples)
        return whole

    def _chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(torch.split(self.inputs, self.chunk), torch.split(self.shares, self.chunk), strict=True)


@dataclass(frozen=True, eq=False)
class Start:
    """What an inner loop begins with: all weights, its steps, and the support set's first pass if there was one."""

    weights: Weights
    update: Update
    passed: Pass | None = None


def descend(
    loss: SupportLoss, start: Start, steps: int, *, head_at_zero: bool
) -> Iterator[tuple[Float[Tensor, "*t"], Weights]]:
    """After each step: the loss before it, the weights after it.

    With `head_at_zero` the head starts at zero, where the backbone's slope is zero whatever its weights: that product
    is left out, with no number changed. (Of several steps only: data parallel training wants all rates in the graph.)
    """
    weights = start.weights
    for step in range(steps):
        passed = None if step else start.passed
        before, slopes = loss.slopes(weights, passed, head_alone=head_at_zero and step == 0 and steps > 1)
        weights = start.update(step, weights, slopes)
        yield before.detach(), weights


def head_logits(weights: Weights, features: Float[Tensor, "*t n dim"]) -> Float[Tensor, "*t n way"]:
    """Linear scores, in the head's own type. In float64 those of any finite embeddings and weights are finite."""
    with torch.autocast(features.device.type, enabled=False):
        scores = near(features, weights[WEIGHT]) @ weights[WEIGHT].mT + weights[BIAS][..., None, :]
    return scores.clamp(-LOGIT_LIMIT, LOGIT_LIMIT)


def near(features: Float[Tensor, "*t n dim"], like: Tensor) -> Float[Tensor, "*t n dim"]:
    """Embeddings in the type of `like`, cut off where sums of their products would overflow."""
    return features.clamp(-_FAR, _FAR).to(like)


def at_rates(rates: Callable[[int], Mapping[str, Tensor]]) -> Update:
    """Plain gradient descent; `rates(step)` holds a rate for each weight, that broadcasts to it."""

    def update(step: int, weights: Weights, slopes: Weights) -> Weights:
        found = rates(step)
        moved = {
            name: torch.addcmul(weights[name], one, found[name].to(one.dtype), value=-1) for name, one in slopes.items()
        }
        return {**weights, **moved}

    return update


def wide(weights: Weights) -> Weights:
    """The same with the head in float64."""
    return weights | {name: weights[name].double() for name in (WEIGHT, BIAS)}


def head_slopes(
    weights: Weights, features: Float[Tensor, "*t s dim"], shares: Float[Tensor, "*t s way"]
) -> tuple[Float[Tensor, "*t"], Weights, Float[Tensor, "*t s dim"]]:
    """The loss (without a graph), its slopes in the head's weights, and its slope in the embeddings."""
    with torch.autocast(features.device.type, enabled=False):
        logits = head_logits(weights, features)
        errors = shares.sum(dim=-1, keepdim=True) * logits.softmax(dim=-1) - shares
        found = {WEIGHT: errors.mT @ near(features, errors), BIAS: errors.sum(dim=-2)}
        return _loss(logits.detach(), shares), found, (errors @ weights[WEIGHT]).to(features)


def prototype_head(
    features: Float[Tensor, "*t s dim"], shares: Float[Tensor, "*t s way"], temperature: Float[Tensor, ""]
) -> Weights:
    """The linear scores of the class means p, temperature (2 p x - |p|^2), which softmax takes for distances."""
    way = shares.shape[-1]
    with torch.autocast(features.device.type, enabled=False):
        prototypes = way * shares.mT @ near(features, shares)
    heat = temperature.to(prototypes)
    return {WEIGHT: 2 * heat * prototypes, BIAS: -heat * prototypes.square().sum(dim=-1)}


def class_shares(labels: Int64[Tensor, "*t s"], way: int, kind: torch.dtype) -> Float[Tensor, "*t s way"]:
    """What each example weighs in its class's column: 1 / (way * shot). Safe under `vmap`."""
    own = (labels[..., None] == torch.arange(way, device=labels.device)).to(kind)
    return own / own.sum(dim=-2, keepdim=True).clamp_min(1) / way


def step_shares(steps: int, until: float, progress: float) -> Sequence[float]:
    """The weight of the queries' loss after each step (MAML++'s multi-step loss), adding up to one.

    All weigh the same at the start of training; those before the last fade out linearly until the share `until` of it.
    """
    faded = max(0.0, 1 - progress / until) if until > 0 else 0.0
    early = faded / steps
    return [early] * (steps - 1) + [1 - early * (steps - 1)]


def finite(state: Weights) -> bool:
    """Whether every number is; the device is asked once."""
    return bool(torch.stack([one.isfinite().all() for one in state.values()]).all())


def _loss(logits: Tensor, shares: Tensor) -> Tensor:
    return -(shares * logits.log_softmax(dim=-1)).sum(dim=(-2, -1))


def _sum(a: tuple[Tensor, Weights], b: tuple[Tensor, Weights]) -> tuple[Tensor, Weights]:
    return a[0] + b[0], {name: one + b[1][name] for name, one in a[1].items()}


def _backbone(weights: Weights) -> Weights:
    return {name: one for name, one in weights.items() if name.startswith(BACKBONE)}


def _vector_jacobian(features: Tensor, own: Weights, slope: Tensor, *, graph: bool) -> Weights:
    if not own:
        return {}
    found = torch.autograd.grad(
        features, list(own.values()), slope, create_graph=graph, allow_unused=True, materialize_grads=True
    )
    return dict(zip(own, found, strict=True))
