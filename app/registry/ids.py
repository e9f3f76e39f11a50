"""Ids that sort by time."""

import secrets
import threading
import time
from collections.abc import Callable
from typing import final

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's base 32, in lower case so that every database collation sorts it alike."""

LENGTH = 26
RANDOM_BITS = 80


def wall_clock_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


@final
class IdMaker:
    """Makes ids of 26 characters (48 bits of milliseconds, 80 random bits) that grow with every call.

    Within one process the order is strict, also inside one millisecond or when the clock steps back.
    Thread-safe.
    """

    def __init__(self, clock_ms: Callable[[], int] = wall_clock_ms) -> None:
        self._clock_ms = clock_ms
        self._lock = threading.Lock()
        self._last = 0

    def new(self, prefix: str) -> str:
        """Make an id such as `tsk_01jd...`; `prefix` comes without its underscore."""
        fresh = (self._clock_ms() << RANDOM_BITS) | secrets.randbits(RANDOM_BITS)
        with self._lock:
            # One more than the last id where the clock has not moved: still unique, still in order.
            self._last = max(fresh, self._last + 1)
            number = self._last
        digits = [ALPHABET[(number >> (5 * place)) & 31] for place in reversed(range(LENGTH))]
        return f"{prefix}_{''.join(digits)}"
