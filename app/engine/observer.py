"""The port through which metrics watch the engine."""

from dataclasses import dataclass
from typing import Literal, Protocol, final, runtime_checkable

CacheEvent = Literal["hit", "miss", "load", "evict", "discard", "uncached"]


@dataclass(frozen=True)
class BatchReport:
    """One batch after its forwards, before its heads; `forwards` counts retries and bisection too."""

    backbone: str
    works: int
    examples: int
    forwards: int
    seconds: float
    queue_examples: int
    """Examples left waiting when the batch was taken."""


@runtime_checkable
class EngineObserver(Protocol):
    """Called on the engine's threads and on the event loop: be quick, be thread-safe, raise nothing."""

    def on_batch(self, report: BatchReport) -> None:
        """A batch went through its backbone."""

    def on_heads(self, backbone: str, seconds: float) -> None:
        """Heads of a batch were run, in so many seconds of the device."""

    def on_work(self, backbone: str, queue_s: float, device_s: float) -> None:
        """A work was finished with a result."""

    def on_cache(self, event: CacheEvent, size_bytes: int) -> None:
        """The state cache was asked or changed; `size_bytes` is what it holds now."""

    def on_restart(self, reason: str) -> None:
        """The device thread is about to be replaced; `health()` is not ok at this moment."""


@final
class NullObserver:
    """Watches nothing."""

    def on_batch(self, report: BatchReport) -> None:
        """Ignore it."""

    def on_heads(self, backbone: str, seconds: float) -> None:
        """Ignore it."""

    def on_work(self, backbone: str, queue_s: float, device_s: float) -> None:
        """Ignore it."""

    def on_cache(self, event: CacheEvent, size_bytes: int) -> None:
        """Ignore it."""

    def on_restart(self, reason: str) -> None:
        """Ignore it."""
