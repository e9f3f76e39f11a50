"""A small checkpoint for the tests: a text network of 8 numbers, with weights of its own."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from app.backbones import build
from app.checkpoints.card import Card
from app.checkpoints.save import save

SETTINGS = {"layers": 1, "dim": 8, "heads": 2, "hidden": 16, "vocabulary": 50, "positions": 16}


@pytest.fixture
def tiny_card() -> Callable[..., Card]:
    """A function that makes a valid card without weights, with the given fields changed."""

    def make(**changes: object) -> Card:
        fields = {
            "name": "tiny",
            "description": "For tests.",
            "architecture": "minilm",
            "architecture_settings": SETTINGS,
            "modality": "text",
            "dim": 8,
            "preprocessing": {"max_tokens": 16},
            "weights": None,
            "sha256": None,
            "learners": {"ridge": {}, "protonet": {"temperature": 2.0}},
            "licence": "Apache-2.0",
            "provenance": "Random numbers.",
        }
        return Card(**fields | changes)

    return make


@pytest.fixture
def tiny_weights() -> dict[str, torch.Tensor]:
    """Weights of the small network, the same each time."""
    generator = torch.Generator().manual_seed(0)
    shapes = build("minilm", SETTINGS).state_dict()
    return {name: torch.randn(tensor.shape, generator=generator) for name, tensor in shapes.items()}


@pytest.fixture
def models(tmp_path: Path, tiny_card: Callable[..., Card], tiny_weights: dict[str, torch.Tensor]) -> Path:
    """A folder that holds the small checkpoint."""
    save(tmp_path / "models", tiny_card(), tiny_weights)
    return tmp_path / "models"
