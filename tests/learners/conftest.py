"""Backbones and support sets that the learners' tests share."""

import gc
from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
from torch import Tensor, nn

from app.backbones._base import Backbone
from app.core.episode import Episode, Support
from app.learners._base import Learner


class _Linear(Backbone):
    modality = "vector"

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.input_shape = (size,)
        self.dim = dim
        self.map = nn.Linear(size, dim)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.map(inputs)


class _Same(Backbone):
    modality = "vector"
    input_shape = (None,)
    dim = None

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs


@pytest.fixture
def same() -> Backbone:
    """Embeddings are the inputs."""
    return _Same().eval()


@pytest.fixture
def linear() -> Callable[[int, int], Backbone]:
    """A small trainable backbone in float64, weights from a fixed seed."""

    def make(size: int, dim: int) -> Backbone:
        backbone = _Linear(size, dim).double()
        generator = torch.Generator().manual_seed(5)
        for parameter in backbone.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        return backbone

    return make


class _Curved(Backbone):
    modality = "vector"

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.input_shape = (size,)
        self.dim = dim
        self.first = nn.Linear(size, 7)
        self.norm = nn.BatchNorm1d(7)
        self.second = nn.Linear(7, dim)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.second(torch.tanh(self.norm(self.first(inputs))))


@pytest.fixture
def curved() -> Callable[..., Backbone]:
    """A small backbone in float64 with curvature and batch normalisation, its weights from a fixed seed."""

    def make(size: int = 4, dim: int = 5, seed: int = 0) -> Backbone:
        backbone = _Curved(size, dim).double()
        generator = torch.Generator().manual_seed(seed)
        for parameter in backbone.parameters():
            parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        backbone.norm.running_mean = torch.randn(7, generator=generator, dtype=torch.float64)
        backbone.norm.running_var = 0.5 + torch.rand(7, generator=generator, dtype=torch.float64)
        return backbone

    return make


@pytest.fixture
def episodes(blobs) -> Callable[..., list[Episode]]:
    """Episodes of vectors in float64: `episodes(count, shots=(1, 1, 1), size=4)`, three queries a class."""

    def make(count: int, shots: Sequence[int] = (1, 1, 1), size: int = 4) -> list[Episode]:
        found = []
        for seed in range(count):
            inputs, labels = blobs([shot + 3 for shot in shots], size, seed=seed)
            inputs = (inputs.double() - 3.0) / 2
            place = (labels[:, None] == labels).tril(-1).sum(1)
            taken = place < torch.tensor(shots)[labels]
            support = Support(inputs[taken], labels[taken], len(shots))
            found.append(Episode(support, inputs[~taken], labels[~taken]))
        return found

    return make


@pytest.fixture
def episode(blobs) -> Callable[..., Episode]:
    """`episode(seed)`: 3-way, 2 supports and 2 queries a class, in order, four numbers each, in float64."""

    def make(seed: int = 0) -> Episode:
        order = torch.arange(3).repeat_interleave(2)
        parts = [blobs((2, 2, 2), 4, seed=one) for one in (seed, seed + 50)]
        inputs, queries = (rows[labels.argsort(stable=True)].double() for rows, labels in parts)
        return Episode(Support(inputs, order, 3), queries, order)

    return make


@pytest.fixture
def check_by_differences() -> Callable[..., None]:
    """Compares the gradients that the parameters hold with finite differences of the episode's loss."""

    def check(
        learner: Learner, one: Episode, parameters: Mapping[str, Tensor], *, size: float, **tolerance: float
    ) -> None:
        generator = torch.Generator().manual_seed(2)
        for name, parameter in parameters.items():
            direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            values = []
            for step in (size, -size):
                parameter.data += step * direction
                values.append(float(learner.episode_loss(one).detach()))
                parameter.data -= step * direction
            expected = (values[0] - values[1]) / (2 * size)
            assert float((parameter.grad * direction).sum()) == pytest.approx(expected, **tolerance), name

    return check


@pytest.fixture
def check_nothing_stays() -> Callable[[Learner, Support], None]:
    """Adapts, and looks for graphs and tensors that stay behind."""

    def alive() -> int:
        gc.collect()
        return sum(issubclass(type(one), Tensor) for one in gc.get_objects())

    def check(learner: Learner, support: Support) -> None:
        with torch.no_grad():
            state = learner.adapt(support)
        assert not any(one.requires_grad for one in [*learner.adapt(support).values(), *state.values()])
        before = alive()
        for _ in range(20):
            learner.adapt(support)
        assert alive() == before

    return check


@pytest.fixture
def blobs() -> Callable[..., tuple[Tensor, Tensor]]:
    """Features and labels of overlapping classes: `blobs(shots, dim, seed)`; rows in no order."""

    def make(shots: Sequence[int], dim: int, seed: int = 0, distance: float = 1.5) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.repeat_interleave(torch.arange(len(shots)), torch.tensor(shots))
        labels = labels[torch.randperm(len(labels), generator=generator)]
        means = distance * torch.randn(len(shots), dim, generator=generator)
        return means[labels] + torch.randn(len(labels), dim, generator=generator) + 3.0, labels

    return make
