"""The rows of `python -m benchmarks.peers`, a file each: `measure(scope)` gives its rows of the table."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from benchmarks.environments import cache_folder


@dataclass(frozen=True)
class PeerScope:
    """How much is measured, and where the peers are installed."""

    rounds: int = 5
    seconds: float = 8.0
    """Of one turn under load."""
    clients: int = 32
    tasks: int = 50
    """Stored and asked side by side, for the row serving."""
    device: Literal["cpu", "cuda"] = "cpu"
    cache: Path = field(default_factory=cache_folder)
