"""Seconds on a device, where it computes while the CPU is elsewhere; and the one wait for it in a batch."""

import time
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, final, runtime_checkable

import torch

Mark: TypeAlias = Any
"""An instant, as its clock knows it."""


@runtime_checkable
class Clock(Protocol):
    """Belongs to one device thread."""

    def mark(self) -> Mark:
        """Now, on the device: after all that it was asked for until now."""

    def when_known(self, since: Mark, then: Callable[[float], None]) -> None:
        """Call `then` with the seconds from `since` to now, as soon as the device has come here; `settle` at latest."""

    def settle(self) -> None:
        """Wait for the device, if anything waits to be called, and call it, in order."""

    def answers(self) -> bool:
        """Whether the device still does what it is asked; asked where it failed, since it waits for all of it."""


@final
class CpuClock:
    """Where the thread itself computes, everything is known at once."""

    def mark(self) -> Mark:
        """Now."""
        return time.monotonic()

    def when_known(self, since: Mark, then: Callable[[float], None]) -> None:
        """At once."""
        then(time.monotonic() - since)

    def settle(self) -> None:
        """Nothing waits."""

    def answers(self) -> bool:
        """Always: whoever asks runs on it."""
        return True


@final
class CudaClock:
    """Marks are events in the stream: they cost no wait, and say how long the device took, not the asking."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Mark, Mark, Callable[[float], None]]] = []

    def mark(self) -> Mark:
        """An event behind all that was asked for."""
        event = torch.cuda.Event(enable_timing=True, blocking=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def when_known(self, since: Mark, then: Callable[[float], None]) -> None:
        """At the next `settle`: until then a copy to the CPU may be under way."""
        self._waiting.append((since, self.mark(), then))

    def settle(self) -> None:
        """Wait for the last event. Raises `RuntimeError` where the device failed since the last wait."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        waiting[-1][1].synchronize()
        for since, until, then in waiting:
            then(since.elapsed_time(until) / 1000)

    def answers(self) -> bool:
        """Not after an illegal access, a failed assertion in a kernel or a fault of the card: from then on each call of
        this process fails, whoever makes it."""
        try:
            torch.cuda.synchronize()
        except RuntimeError:
            return False
        return True


def clock_of(device: torch.device) -> Clock:
    """The clock of a kind of device."""
    return CudaClock() if device.type == "cuda" else CpuClock()
