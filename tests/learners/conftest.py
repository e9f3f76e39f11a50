"""Backbones and support sets that the learners' tests share."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from app.backbones._base import Backbone


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
