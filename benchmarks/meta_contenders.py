"""Meta-training as others write it: by hand, with `higher`, with `torchopt`. Nothing of ours is imported here.

A contender takes a model, episodes and a plan, leaves the gradient of the mean query loss in the model's parameters
and returns that loss. All of them compute what our learners of the same name compute, so that the gradients can be
compared. Each takes one backward an episode: no slower than keeping the graph of a whole meta-batch, as some examples
of the libraries do, and kinder to memory.
"""

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, linear, max_pool2d, relu


class Task(NamedTuple):
    """One episode; images are float32 (n, channels, height, width), 0 to 1, support labels in equal numbers."""

    support: Tensor
    support_labels: Tensor
    queries: Tensor
    query_labels: Tensor


@dataclass(frozen=True)
class Plan:
    """How the inner loop runs."""

    way: int
    steps: int
    rate: float


class Block(nn.Module):
    """Convolution, normalisation, ReLU, pooling, in the order of the papers."""

    def __init__(self, channels: int, filters: int, norm: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, filters, 3, padding=1)
        self.norm: nn.Module = nn.BatchNorm2d(filters) if norm == "batch" else nn.GroupNorm(8, filters)

    def forward(self, images: Tensor) -> Tensor:
        """Half as high and wide."""
        return max_pool2d(relu(self.norm(self.conv(images))), 2)


class Model(nn.Module):
    """The four blocks of the papers, and a linear head."""

    def __init__(self, way: int, norm: str = "batch", filters: int = 64, side: int = 28) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block(1 if place == 0 else filters, filters, norm) for place in range(4)))
        self.head = nn.Linear(filters * (side // 16) ** 2, way)

    def embed(self, images: Tensor) -> Tensor:
        """Embeddings (n, dim)."""
        places: Tensor = self.blocks(images)
        return places.flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """Scores (n, way)."""
        scores: Tensor = self.head(self.embed(images))
        return scores


Contender = Callable[[Model, Sequence[Task], Plan], Tensor]


def maml_by_hand(model: Model, tasks: Sequence[Task], plan: Plan) -> Tensor:
    """Second-order MAML: `torch.autograd.grad` in a loop. Normalisation by running statistics."""
    model.eval()
    losses = []
    for task in tasks:
        weights: dict[str, Tensor] = dict(model.named_parameters())
        for _ in range(plan.steps):
            loss = cross_entropy(functional_call(model, weights, (task.support,)), task.support_labels)
            slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
            weights = {name: weights[name] - plan.rate * one for name, one in zip(weights, slopes, strict=True)}
        scores = functional_call(model, weights, (task.queries,))
        losses.append(_backward(cross_entropy(scores, task.query_labels), len(tasks)))
    return torch.stack(losses).sum()


def maml_by_higher(model: Model, tasks: Sequence[Task], plan: Plan) -> Tensor:
    """The same with `higher`: a patched copy of the model, an optimiser that keeps its graph."""
    higher: Any = importlib.import_module("higher")
    model.eval()
    inner = torch.optim.SGD(model.parameters(), lr=plan.rate)
    losses = []
    for task in tasks:
        with higher.innerloop_ctx(model, inner, copy_initial_weights=False) as (patched, steps):
            for _ in range(plan.steps):
                steps.step(cross_entropy(patched(task.support), task.support_labels))
            losses.append(_backward(cross_entropy(patched(task.queries), task.query_labels), len(tasks)))
    return torch.stack(losses).sum()


def maml_by_torchopt(model: Model, tasks: Sequence[Task], plan: Plan) -> Tensor:
    """The same with `torchopt`: its optimiser moves the model, which is put back after each task."""
    torchopt: Any = importlib.import_module("torchopt")
    model.eval()
    inner = torchopt.MetaSGD(model, lr=plan.rate)
    start = torchopt.extract_state_dict(model, by="reference", detach_buffers=True)
    first = torchopt.extract_state_dict(inner, by="reference")
    losses = []
    for task in tasks:
        for _ in range(plan.steps):
            inner.step(cross_entropy(model(task.support), task.support_labels))
        losses.append(_backward(cross_entropy(model(task.queries), task.query_labels), len(tasks)))
        torchopt.recover_state_dict(model, start)
        torchopt.recover_state_dict(inner, first)
    return torch.stack(losses).sum()


def anil_by_hand(model: Model, tasks: Sequence[Task], plan: Plan) -> Tensor:
    """ANIL: one pass for support and queries, then MAML on the head."""
    model.train()
    losses = []
    for task in tasks:
        support, queries = _standardised(model, task)
        weight, bias = model.head.weight, model.head.bias
        for _ in range(plan.steps):
            loss = plan.way * cross_entropy(linear(support, weight, bias), task.support_labels)
            slopes = torch.autograd.grad(loss, (weight, bias), create_graph=True)
            weight, bias = weight - plan.rate * slopes[0], bias - plan.rate * slopes[1]  # type: ignore[assignment]
        losses.append(_backward(cross_entropy(linear(queries, weight, bias), task.query_labels), len(tasks)))
    return torch.stack(losses).sum()


def anil_by_higher(model: Model, tasks: Sequence[Task], plan: Plan) -> Tensor:
    """The same with `higher`."""
    higher: Any = importlib.import_module("higher")
    model.train()
    inner = torch.optim.SGD(model.head.parameters(), lr=plan.rate)
    losses = []
    for task in tasks:
        support, queries = _standardised(model, task)
        with higher.innerloop_ctx(model.head, inner, copy_initial_weights=False) as (patched, steps):
            for _ in range(plan.steps):
                steps.step(plan.way * cross_entropy(patched(support), task.support_labels))
            losses.append(_backward(cross_entropy(patched(queries), task.query_labels), len(tasks)))
    return torch.stack(losses).sum()


def anil_by_torchopt(model: Model, tasks: Sequence[Task], plan: Plan) -> Tensor:
    """The same with `torchopt`."""
    torchopt: Any = importlib.import_module("torchopt")
    model.train()
    inner = torchopt.MetaSGD(model.head, lr=plan.rate)
    start = torchopt.extract_state_dict(model.head, by="reference")
    first = torchopt.extract_state_dict(inner, by="reference")
    losses = []
    for task in tasks:
        support, queries = _standardised(model, task)
        for _ in range(plan.steps):
            inner.step(plan.way * cross_entropy(model.head(support), task.support_labels))
        losses.append(_backward(cross_entropy(model.head(queries), task.query_labels), len(tasks)))
        torchopt.recover_state_dict(model.head, start)
        torchopt.recover_state_dict(inner, first)
    return torch.stack(losses).sum()


def protonet_by_hand(model: Model, tasks: Sequence[Task], plan: Plan) -> Tensor:
    """A Prototypical Network: one pass an episode, squared distances to the class means."""
    model.train()
    losses = []
    for task in tasks:
        support, queries = _embedded(model, task)
        prototypes = torch.stack([support[task.support_labels == label].mean(0) for label in range(plan.way)])
        scores = -(queries[:, None] - prototypes).square().sum(2)
        losses.append(_backward(cross_entropy(scores, task.query_labels), len(tasks)))
    return torch.stack(losses).sum()


BY_HAND: Final = "plain autograd"
PEERS: Final = MappingProxyType(
    {
        "maml": {BY_HAND: maml_by_hand, "higher": maml_by_higher, "torchopt": maml_by_torchopt},
        "anil": {BY_HAND: anil_by_hand, "higher": anil_by_higher, "torchopt": anil_by_torchopt},
        "protonet": {BY_HAND: protonet_by_hand},
    }
)
"""The contenders of each learner. A Prototypical Network has no inner loop that a library could run."""

PACKAGES: Final = ("higher", "torchopt")


def missing() -> list[str]:
    """The packages of peers that are not installed."""
    return [name for name in PACKAGES if importlib.util.find_spec(name) is None]


def _backward(loss: Tensor, tasks: int) -> Tensor:
    """Accumulate the gradient of one task's share of the mean."""
    share = loss / tasks
    share.backward()  # type: ignore[no-untyped-call]
    return share.detach()


def _embedded(model: Model, task: Task) -> tuple[Tensor, Tensor]:
    """Support and queries in one pass, whose batch statistics are then those of the episode."""
    features = model.embed(torch.cat([task.support, task.queries]))
    return features[: len(task.support)], features[len(task.support) :]


def _standardised(model: Model, task: Task) -> tuple[Tensor, Tensor]:
    """Embeddings of support and queries, centred on the support set, in units of its spread."""
    support, queries = _embedded(model, task)
    centre = support.mean(0)
    spread = (support - centre).square().sum(1).mean().sqrt()
    return (support - centre) / spread, (queries - centre) / spread
