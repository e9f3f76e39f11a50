"""A synthetic alphabet and a recipe small enough for a test."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from app.training import train_command
from app.training.recipe import Recipe, recipe_from_dict
from app.training.sampler import Pool
from app.training.train import Pools


@pytest.fixture(scope="session")
def alphabet() -> Callable[[int, int], Pool]:
    """Makes a pool of `classes` blob-shaped characters with 6 noisy drawings each."""

    def make(classes: int, seed: int) -> Pool:
        generator = torch.Generator().manual_seed(seed)
        coarse = torch.rand(classes, 1, 1, 4, 4, generator=generator) > 0.6
        shapes = coarse.float().repeat_interleave(7, -1).repeat_interleave(7, -2)
        noise = torch.rand(classes, 6, 1, 28, 28, generator=generator)
        return Pool.of_classes(((0.6 * shapes + 0.4 * noise) * 255).to(torch.uint8))

    return make


@pytest.fixture
def on_disk(tmp_path: Path, alphabet: Callable[[int, int], Pool]) -> Callable[[str], Path]:
    """Writes a recipe as `tiny.toml`, and the 20 characters that it trains on as `data/arrays/letters.npz`."""

    def write(recipe: str) -> Path:
        pool = alphabet(20, 0)
        (tmp_path / "data" / "arrays").mkdir(parents=True)
        labels = np.array([f"letter {name:02d}" for name in pool.labels.tolist()])
        np.savez(tmp_path / "data" / "arrays" / "letters.npz", inputs=pool.inputs[:, 0].numpy(), labels=labels)
        (tmp_path / "tiny.toml").write_text(recipe)
        return tmp_path

    return write


@pytest.fixture
def raw_recipe() -> dict[str, Any]:
    """A recipe as parsed TOML, free to change."""
    return {
        "name": "tiny-glyphs",
        "seed": 3,
        "data": {"name": "omniglot", "train": "train", "validation": "val", "test": "test"},
        "backbone": {"name": "conv4", "settings": {"filters": 8}},
        "learner": {"name": "protonet"},
        "stages": [
            {
                "kind": "episodes",
                "episodes": {"way": 5, "images": 3, "splits": 3},
                "augmentation": {"shift_pixels": 1.0, "thick_share": 0.2},
                "optimiser": {"cycles": [8, 4], "learning_rate": 0.01, "warmup_steps": 2},
            }
        ],
        "validation": {"every_steps": 6, "judging": {"way": 5, "shot": 1, "episodes": 20, "queries": 3}},
        "tests": [{"way": 5, "shot": 1, "episodes": 20, "queries": 3}],
        "card": {
            "description": "Blobs.",
            "licence": "Apache-2.0",
            "provenance": "Drawn by a random generator.",
            "preprocessing": {"height": 28, "width": 28, "channels": 1, "resize": "stretch"},
            "learners": {"protonet": {}},
        },
    }


@pytest.fixture
def pools(alphabet: Callable[[int, int], Pool]) -> Pools:
    """12 classes that train, 8 that validate."""
    return Pools(alphabet(12, 0), alphabet(8, 1))


@pytest.fixture
def recipe(raw_recipe: dict[str, Any]) -> Recipe:
    return recipe_from_dict(raw_recipe)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs leave no picture: drawing takes longer than these runs."""
    monkeypatch.setattr(train_command, "draw_curves", lambda *_: None)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """These networks are so small that threads cost more than they bring."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
