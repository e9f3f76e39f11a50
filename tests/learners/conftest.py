"""Backbones and support sets that the learners' tests share."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from app.backbones._base import Backbone
from app.core.episode import Episode, Support


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
def blobs() -> Callable[..., tuple[Tensor, Tensor]]:
    """Features and labels of overlapping classes: `blobs(shots, dim, seed)`; rows in no order."""

    def make(shots: Sequence[int], dim: int, seed: int = 0, distance: float = 1.5) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.repeat_interleave(torch.arange(len(shots)), torch.tensor(shots))
        labels = labels[torch.randperm(len(labels), generator=generator)]
        means = distance * torch.randn(len(shots), dim, generator=generator)
        return means[labels] + torch.randn(len(labels), dim, generator=generator) + 3.0, labels

    return make
