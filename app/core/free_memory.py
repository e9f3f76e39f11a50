"""Memory that was freed goes back to the system.

glibc keeps what was freed between what is still in use: requests that wait, each with a decoded image, leave their
places behind in whichever arena the next image does not look. After some minutes of overload a third of the server was
such gaps. `malloc_trim` gives whole pages of them back in some milliseconds. Other C libraries (musl, those of macOS)
have no such call; then nothing is done.
"""

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import Final

from app.core.threads import name_this_thread

EVERY_S: Final = 10.0
"""How often the size of the process is looked at."""

GROWN: Final = 1.03
"""So many times the size after the last time are worth another; a server at rest is left alone."""

_STATM: Final = Path("/proc/self/statm")


def give_back() -> bool:
    """Give free memory back to the system, in all arenas; says whether there was any."""
    trim = _malloc_trim()
    return trim is not None and bool(trim(0))


def keep_giving_back(every_s: float = EVERY_S) -> Callable[[], None]:
    """Do so now, and from now on where the process has grown; returns what ends it."""
    over = Event()
    if _malloc_trim() is not None and _STATM.exists():
        Thread(target=_keep_giving_back, args=(over, every_s), name="imprint-memory", daemon=True).start()
    return over.set


def resident_bytes() -> int:
    """The memory of this process that is in use, shared pages too. Linux only. Raises: `OSError`."""
    return int(_STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _keep_giving_back(over: Event, every_s: float) -> None:
    name_this_thread("imprint-memory")
    least = 0
    while True:
        if resident_bytes() > GROWN * least:
            give_back()
            least = resident_bytes()
        if over.wait(every_s):
            return


def _malloc_trim() -> Callable[[int], int] | None:
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
    return found
