"""A linear softmax head on a support set, as inner loops see it: its loss, its slope, and many of them at once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from app.backbones._base import Backbone
from app.core.episode import Episode, TaskState
from app.learners._distance import in_units, spreads

_LARGEST: Final = torch.finfo(torch.float32).max


class Head(NamedTuple):
    """The weights of a linear head; its scores are rows @ weights + bias."""

    weights: Float[Tensor, "dim way"]
    bias: Float[Tensor, " way"]

    def detached(self) -> "Head":
        """The same numbers, cut off from autograd."""
        return Head(self.weights.detach(), self.bias.detach())


@dataclass(frozen=True, eq=False)
class HeadTask:
    """What a head is fitted on. Nothing here looks at values to decide, so that `torch.func.vmap` runs over it.

    `rows`: the examples less `centre`, the mean of the class means, in units of the support set's spread, so that the
    scale of the embeddings is no matter. `shares`: (s, way), column c holds one over the shot at the examples of c, so
    that every class weighs the same. A row of zeros leaves its example out.
    """

    rows: Float[Tensor, "s dim"]
    shares: Float[Tensor, "s way"]
    centre: Float[Tensor, " dim"]
    unit: Float[Tensor, ""]

    @classmethod
    def of(cls, embeddings: Float[Tensor, "s dim"], targets: Float[Tensor, "s way"]) -> "HeadTask":
        """From embeddings and one-hot targets; a row of `targets` that is all zeros leaves that example out."""
        wide, targets = embeddings.double(), targets.double()
        unit = spreads(wide, targets.sum(dim=1)[None])[0].clamp_max(_LARGEST).to(embeddings.dtype).double()
        shares = targets / targets.sum(dim=0)
        rows = wide / unit
        centre = (shares.T @ rows).mean(dim=0)
        return cls(rows - centre, shares, centre, unit)

    @property
    def way(self) -> int:
        """How many classes there are."""
        return self.shares.shape[1]

    def to(self, kind: torch.dtype) -> "HeadTask":
        """The same in another type."""
        return HeadTask(*(one.to(kind) for one in (self.rows, self.shares, self.centre, self.unit)))

    def prototype_head(self, temperature: Float[Tensor, ""]) -> Head:
        """The linear scores of the prototypes p, temperature (2 p z - |p|^2); zeros for a temperature of 0."""
        prototypes = self.shares.T @ self.rows
        heat = temperature.to(self.rows)
        return Head(2 * heat * prototypes.T, -heat * prototypes.square().sum(dim=1))

    def loss(self, head: Head) -> Float[Tensor, ""]:
        """Cross-entropy in nats, averaged within each class and then over the classes."""
        logs = (self.rows @ head.weights + head.bias).log_softmax(dim=1)
        return -(self.shares * logs).sum() / self.way

    def slope(self, head: Head) -> Head:
        """The gradient of `way` times the loss: so a class's weights move as far whatever the number of classes."""
        chances = (self.rows @ head.weights + head.bias).softmax(dim=1)
        residual = self.shares.sum(dim=1, keepdim=True) * chances - self.shares
        return Head(self.rows.T @ residual, residual.sum(dim=0))

    def state(self, head: Head, losses: Sequence[Float[Tensor, ""]], kind: torch.dtype) -> dict[str, Tensor]:
        """The task's state, in the type of the embeddings."""
        parts = {"weights": head.weights, "bias": head.bias, "centre": self.centre, "unit": self.unit}
        parts["support_losses"] = torch.stack(list(losses))
        return {name: tensor.to(kind).contiguous() for name, tensor in parts.items()}


def head_scores(state: TaskState, embeddings: Float[Tensor, "*t q dim"]) -> Float[Tensor, "*t q way"]:
    """Linear scores of prepared embeddings; those of several tasks by their stacked states."""
    rows = in_units(embeddings, state["unit"]) - state["centre"][..., None, :]
    return rows @ state["weights"] + state["bias"][..., None, :]


Fit = Callable[[Tensor, Tensor], Mapping[str, Tensor]]
"""(prepared embeddings (s, dim), one-hot targets (s, way)) to a state; safe under `vmap`."""


@dataclass(frozen=True, eq=False)
class Stacked:
    """Episodes of equal shapes whose inputs are prepared embeddings: one more axis `e` in front."""

    support: Float[Tensor, "e s dim"]
    targets: Float[Tensor, "e s way"]
    queries: Float[Tensor, "e q dim"]
    query_labels: Int64[Tensor, "e q"]

    @classmethod
    def of(cls, prepare: Callable[[Tensor], Tensor], episodes: Sequence[Episode]) -> "Stacked":
        """Put embeddings side by side, prepared.

        Raises: `ValueError` for episodes of different ways; `RuntimeError` of `torch.stack` for other shapes.
        """
        if len({one.support.way for one in episodes}) != 1:
            raise ValueError("episodes that run side by side must have one way")
        support = torch.stack([one.support.inputs for one in episodes])
        queries = torch.stack([one.query_inputs for one in episodes])
        labels = torch.stack([one.support.labels for one in episodes])
        targets = nn.functional.one_hot(labels, episodes[0].support.way).to(support.dtype)
        truth = torch.stack([one.query_labels for one in episodes])
        found = [prepare(one.flatten(0, 1)).reshape(*one.shape[:2], -1) for one in (support, queries)]
        return cls(found[0], targets, found[1], truth)

    def query_loss(self, fit: Fit) -> Float[Tensor, ""]:
        """Mean cross-entropy of the queries by heads fitted side by side."""

        def scores(support: Tensor, targets: Tensor, queries: Tensor) -> Tensor:
            return head_scores(fit(support, targets), queries)

        logits: Tensor = torch.func.vmap(scores)(self.support, self.targets, self.queries)
        return nn.functional.cross_entropy(logits.flatten(0, 1), self.query_labels.flatten())


def embedded(backbone: Backbone, episodes: Sequence[Episode]) -> list[Episode]:
    """The episodes with embeddings for inputs, as `episode_loss` makes them.

    All in one pass; but where batch statistics would tell the difference, support and queries of each by themselves.
    """
    parts = [part for one in episodes for part in (one.support.inputs, one.query_inputs)]
    apart = any(isinstance(one, nn.modules.batchnorm._BatchNorm) and one.training for one in backbone.modules())
    rows = (
        [backbone(part) for part in parts]
        if apart
        else torch.split(backbone(torch.cat(parts)), [len(part) for part in parts])
    )
    return [
        Episode(replace(one.support, inputs=support), queries, one.query_labels)
        for one, support, queries in zip(episodes, rows[::2], rows[1::2], strict=True)
    ]


def held_out_scores(
    fit: Fit,
    embeddings: Float[Tensor, "s dim"],
    labels: Int64[Tensor, " s"],
    way: int,
    folds: Int64[Tensor, " s"],
) -> Float[Tensor, "s way"]:
    """`Learner.cross_validate` on prepared embeddings, the folds side by side."""
    count = max(1, int(folds.max()) + 1)
    kept = folds != torch.arange(count, device=folds.device)[:, None]
    targets = (nn.functional.one_hot(labels, way) * kept[:, :, None]).to(embeddings.dtype)
    scores: Tensor = torch.func.vmap(lambda one: head_scores(fit(embeddings, one), embeddings))(targets)
    own = scores[folds.clamp_min(0), torch.arange(len(labels), device=labels.device)]
    return own.masked_fill(folds[:, None] < 0, torch.nan)
