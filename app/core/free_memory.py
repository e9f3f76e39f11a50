"""Memory that was freed goes back to the system.

glibc keeps what was freed between what is still in use: requests that wait, each with a decoded image, leave their
places behind in whichever arena the next image does not look. After some minutes of overload a third of the server was
such gaps. `malloc_trim` gives whole pages of them back in some milliseconds. Other C libraries (musl, those of macOS)
have no such call; then nothing is done.
"""

import ctypes
import time
from collections.abc import Callable
from threading import Event, Thread
from typing import Final

from app.core.threads import name_this_thread

EVERY_S: Final = 10.0
"""How often: each time takes some milliseconds, and what is given back must be asked for again."""

BUSY: Final = 0.02
"""A process that computed for less than this part of the time is at rest, and is left alone."""


def give_back() -> bool:
    """Give free memory back to the system, in all arenas; says whether there was any."""
    trim = _malloc_trim()
    return trim is not None and bool(trim(0))


def keep_giving_back(every_s: float = EVERY_S) -> Callable[[], None]:
    """Do so now, and from now on while the process computes and once afterwards; returns what ends it."""
    over = Event()
    if _malloc_trim() is not None:
        Thread(target=_keep_giving_back, args=(over, every_s), name="imprint-memory", daemon=True).start()
    return over.set


def _keep_giving_back(over: Event, every_s: float) -> None:
    name_this_thread("imprint-memory")
    busy = before = True
    while True:
        if busy or before:
            give_back()
        began_s = time.process_time()
        if over.wait(every_s):
            return
        before, busy = busy, time.process_time() - began_s > BUSY * every_s


def _malloc_trim() -> Callable[[int], int] | None:
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
    return found
