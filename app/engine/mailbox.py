"""Between the event loop and the engine's threads: results one way, the bell the other."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, final


@final
class Mailbox:
    """Settles futures of one event loop from any thread.

    Waking a loop costs a system call, so results that come while a wake-up is under way ride along
    with it. The first result of a future wins; whatever comes later is dropped.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._letters: deque[tuple[asyncio.Future[Any], Any, Exception | None]] = deque()
        self._waking = False
        self._ringing = False

    def ring(self, bell: Callable[[], None]) -> None:
        """Call `bell` once the loop has done what it has to do now, and what came meanwhile. Call this on the loop,
        with one bell only.

        To wake a thread costs a system call, and the thread then wants the interpreter: so works that are put in one
        after the other ring once. What came while they were put in joins their batch.
        """
        if not self._ringing:
            self._ringing = True
            # The first call comes before what the loop takes from its sockets then.
            self.loop.call_soon(self.loop.call_soon, self._ring, bell)

    def _ring(self, bell: Callable[[], None]) -> None:
        self._ringing = False
        bell()

    def post(self, future: asyncio.Future[Any], value: object, error: Exception | None) -> None:
        """Set the future's result, or its exception where `error` is given."""
        # First the letter, then the look at the flag; `_deliver` does it the other way round, so no letter stays.
        self._letters.append((future, value, error))
        if not self._waking:
            self._waking = True
            try:
                self.loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:
                # The loop is closed: nobody waits any more.
                self._letters.clear()

    def _deliver(self) -> None:
        self._waking = False
        while self._letters:
            future, value, error = self._letters.popleft()
            if future.done():
                continue
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)
