"""What one request carries through the services: its deadline, and the seconds it spent where."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from app.core.errors import DeadlinePassed
from app.engine.work import Outcome

T = TypeVar("T")


@dataclass
class Timing:
    """Seconds by place; `device_s` holds `head_s`."""

    decode_s: float = 0.0
    load_s: float = 0.0
    queue_s: float = 0.0
    device_s: float = 0.0
    head_s: float = 0.0
    examples: int = 0
    """What was computed: less than was asked for, where embeddings were known."""
    started_s: float = field(default_factory=time.perf_counter)

    def begin(self) -> None:
        """Count the total from now: what a client took to send its body is not the server's time."""
        self.started_s = time.perf_counter()

    def add(self, outcome: Outcome[T]) -> T:
        """Take over an outcome's seconds and give its value."""
        self.queue_s += outcome.queue_s
        self.device_s += outcome.device_s
        self.examples += outcome.examples
        return outcome.value

    def cover(self, other: "Timing") -> None:
        """Take over the longest stay at each place of calls that ran side by side."""
        for place in ("decode_s", "load_s", "queue_s", "device_s"):
            setattr(self, place, max(getattr(self, place), getattr(other, place)))

    def computed(self) -> int:
        """Examples that were computed until now."""
        return self.examples

    @contextmanager
    def measure(self, place: Literal["decode_s", "load_s"]) -> Iterator[None]:
        """Count the seconds of the block as spent there."""
        started = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, place, getattr(self, place) + time.perf_counter() - started)

    def milliseconds(self) -> dict[str, float]:
        """For people and for JSON: milliseconds by place, and in total until now."""
        spent = {
            "decode_ms": round(self.decode_s * 1000, 3),
            "load_ms": round(self.load_s * 1000, 3),
            "queue_ms": round(self.queue_s * 1000, 3),
            "device_ms": round(self.device_s * 1000, 3),
        }
        if self.head_s:
            spent["head_ms"] = round(self.head_s * 1000, 3)
        spent["total_ms"] = round((time.perf_counter() - self.started_s) * 1000, 3)
        return spent


@dataclass
class Call:
    """One request on its way: `deadline_s` is a `time.monotonic()` reading."""

    deadline_s: float
    timing: Timing = field(default_factory=Timing)
    admitted: bool = False
    """It is a part of a request that was let in as a whole."""

    @property
    def left_s(self) -> float:
        """Seconds until the deadline, 0 once it has passed."""
        return max(0.0, self.deadline_s - time.monotonic())

    def check(self) -> None:
        """Raises `DeadlinePassed` once it is too late to go on."""
        if time.monotonic() >= self.deadline_s:
            raise DeadlinePassed("The deadline passed before the answer was ready.")
