"""Hand-made optimizers on the heads of few-shot tasks: the grid to tune them from, and their way on a task."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from app import learners
from app.backbones.identity import Identity, Settings
from app.core.episode import Support
from app.learners._base import EmbeddingLearner
from app.learners._head_loop import Head, HeadTask
from app.learners.learned_optimizer import objective

FAMILIES: Final = ("SGD", "momentum", "Adam")

DESCENT_RATES: Final = tuple(10 ** (power / 4) for power in range(-4, 9))
ADAM_RATES: Final = tuple(10 ** (power / 4) for power in range(-8, 3))
MOMENTA: Final = (0.3, 0.5, 0.7, 0.9)
DECAYS: Final = ((0.9, 0.999), (0.8, 0.9), (0.5, 0.9))


@dataclass(frozen=True)
class Rival:
    """An optimizer with its numbers; `scaled` counts weights in 1 / sqrt(dim), as the learned optimizer does."""

    family: str
    numbers: str
    make: Callable[[list[Tensor]], torch.optim.Optimizer]
    scaled: bool = False


@dataclass(frozen=True, eq=False)
class Problems:
    """Several tasks of one shape, side by side: what `learned_optimizer` optimises on each, from `start`."""

    rows: Float64[Tensor, "e s dim"]
    shares: Float64[Tensor, "e s way"]
    start: Head
    penalty: float

    @classmethod
    def of(cls, supports: Sequence[Support], settings: Mapping[str, Any]) -> "Problems":
        """From support sets of float64 embeddings, and the learner's settings."""
        tasks = [HeadTask.of(one.inputs, nn.functional.one_hot(one.labels, one.way).double()) for one in supports]
        heat = torch.tensor(float(settings["temperature"]), dtype=torch.float64)
        shares = torch.stack([one.shares for one in tasks])
        penalty = settings["regularisation"] * shares.shape[2] / shares.shape[1]
        return cls(
            torch.stack([one.rows for one in tasks]),
            shares,
            _stacked([one.prototype_head(heat) for one in tasks]),
            penalty,
        )

    def losses(self, head: Head) -> Float64[Tensor, " e"]:
        """The objective of each task, in nats."""

        def one(rows: Tensor, shares: Tensor, head: Head, start: Head) -> Tensor:
            task = HeadTask(rows, shares, rows[0], rows[0, 0])  # of centre and unit the objective knows nothing
            return objective(task, head, start, torch.tensor(self.penalty, dtype=torch.float64))

        found: Tensor = torch.func.vmap(one)(self.rows, self.shares, head, self.start)
        return found

    def way_of(self, rival: Rival, steps: int) -> Float64[Tensor, "e steps"]:
        """The losses before each step and at the end: torch's optimizer on all tasks at once, which share nothing."""
        length = math.sqrt(self.rows.shape[2]) if rival.scaled else 1.0
        weights, bias = ((self.start.weights * length).requires_grad_(), self.start.bias.clone().requires_grad_())
        optimiser = rival.make([weights, bias])
        curve = []
        for _ in range(steps):
            losses = self.losses(Head(weights / length, bias))
            curve.append(losses.detach())
            optimiser.zero_grad()
            (losses.sum() * self.shares.shape[2]).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        with torch.no_grad():
            curve.append(self.losses(Head(weights / length, bias)))
        return torch.stack(curve, dim=1)


def minima(supports: Sequence[Support], those: Problems, settings: Mapping[str, Any]) -> Float64[Tensor, " e"]:
    """The least loss of each task: that of the head which `logistic` ends at, as it minimises the same."""
    exact = on_embeddings("logistic", {name: settings[name] for name in ("regularisation", "temperature")})
    states = [exact.fit(one.inputs, one.labels, one.way) for one in supports]
    return those.losses(_stacked([Head(one["weights"], one["bias"]) for one in states]))


def on_embeddings(name: str, settings: Mapping[str, object]) -> EmbeddingLearner[Any]:
    """A learner whose inputs are embeddings."""
    built = learners.build(name, Identity(Settings()).eval(), settings)
    assert isinstance(built, EmbeddingLearner)
    return built


def rivals() -> Iterator[Rival]:
    """The grid."""
    for rate in DESCENT_RATES:
        yield Rival("SGD", f"rate {rate:.3g}", partial(torch.optim.SGD, lr=rate))
        for share in MOMENTA:
            make = partial(torch.optim.SGD, lr=rate, momentum=share)
            yield Rival("momentum", f"rate {rate:.3g}, momentum {share}", make)
    for rate, decays, scaled in itertools.product(ADAM_RATES, DECAYS, (False, True)):
        label = f"rate {rate:.3g}, decays {decays[0]} and {decays[1]}" + (", scaled" if scaled else "")
        yield Rival("Adam", label, partial(torch.optim.Adam, lr=rate, betas=decays), scaled)


def _stacked(heads: Sequence[Head]) -> Head:
    return Head(torch.stack([one.weights for one in heads]).contiguous(), torch.stack([one.bias for one in heads]))
