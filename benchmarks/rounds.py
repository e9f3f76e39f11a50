"""Contenders that take turns, and what the rounds say together."""

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.table import Row


@dataclass(frozen=True)
class Scope:
    """How much is measured."""

    device: Literal["cpu", "cuda"] = "cpu"
    rounds: int = 5
    seconds: float = 4.0
    """Of one turn under load."""
    tasks: int = 10_000
    """Stored, for the cache."""
    distinct: int = 1_000
    """Tasks that are loaded side by side."""
    overload_seconds: float = 60.0
    clients: int = 32


def tell(line: str) -> None:
    """How far it is, on the standard error."""
    sys.stderr.write(line + "\n")


def median_row(
    name: str,
    values: Sequence[float],
    unit: str,
    goal: float | None = None,
    better: Literal["higher", "lower"] = "higher",
    note: str = "",
) -> Row:
    """The median of the rounds; the note says how far they lie apart."""
    spread = f"rounds {min(values):.3g} to {max(values):.3g}"
    return Row(name, statistics.median(values), unit, goal, better, note=f"{spread}; {note}" if note else spread)


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Of each round."""
    return [one / other for one, other in zip(above, below, strict=True)]
