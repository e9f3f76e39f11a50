"""SIGTERM and Ctrl-C: a run saves its state and ends, instead of being cut off."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


class Stopped(Exception):
    """A run that a signal ended, after its state was saved."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum

    @property
    def exit_status(self) -> int:
        """What a shell expects of a process that a signal ended: 143 for SIGTERM, 130 for Ctrl-C."""
        return 128 + self.signum


@dataclass
class StopSign:
    """Whether a signal came, and which: 0 for none."""

    signum: int = 0


@contextmanager
def listening() -> Iterator[StopSign]:
    """Note SIGTERM and SIGINT instead of dying of them. A second one acts as it did before.

    Outside the main thread, where Python hears no signals, the sign stays at 0.
    """
    sign = StopSign()
    if threading.current_thread() is not threading.main_thread():
        yield sign
        return
    kinds = (signal.SIGTERM, signal.SIGINT)
    before = {kind: signal.getsignal(kind) for kind in kinds}

    def restore() -> None:
        for kind in kinds:
            signal.signal(kind, before[kind])

    def note(signum: int, _: FrameType | None) -> None:
        sign.signum = signum
        restore()

    for kind in kinds:
        signal.signal(kind, note)
    try:
        yield sign
    finally:
        restore()
