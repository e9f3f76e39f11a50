"""Checkpoints for the tests of backbones: each is loaded once."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from app.checkpoints.load import Checkpoint, load, scan

MODELS = Path(__file__).parents[2] / "models"


@cache
def _loaded(name: str) -> Checkpoint:
    return load(scan([MODELS])[name])


@pytest.fixture(scope="session")
def load_checkpoint() -> Callable[[str], Checkpoint]:
    """A function from the name of a bundled checkpoint to it, loaded."""
    return _loaded
