"""The sign of life that a long computation gives between its steps, whatever runs it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar


def _nothing() -> None:
    """Where nobody watches."""


_beat: ContextVar[Callable[[], None]] = ContextVar("beat", default=_nothing)


def beat_now() -> None:
    """Call it between the steps of what may take seconds: the server then knows that it does not hang.

    Raises: what ends a computation that nobody waits for any more (`DeadlinePassed`, for one): let it through.
    """
    _beat.get()()


@contextmanager
def beating(beat: Callable[[], None]) -> Iterator[None]:
    """In this block, on this thread, `beat_now` calls `beat`."""
    token = _beat.set(beat)
    try:
        yield
    finally:
        _beat.reset(token)
