"""Turns: a number of places, and who waits for one comes in by task, in turn."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from typing import final


@final
class Turns:
    """Of one event loop. Tasks take turns; within a task who came first is first."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: dict[Hashable, deque[asyncio.Future[None]]] = {}

    @asynccontextmanager
    async def turn(self, task: Hashable) -> AsyncIterator[None]:
        """Hold a place as long as the block lasts. `None` shares its turns with no one."""
        await self._enter(object() if task is None else task)
        try:
            yield
        finally:
            self._leave()

    async def _enter(self, key: Hashable) -> None:
        if self._free:
            self._free -= 1
            return
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, deque()).append(mine)
        try:
            await mine
        except asyncio.CancelledError:
            if not mine.cancelled():  # the place was given just before the caller went
                self._leave()
            raise

    def _leave(self) -> None:
        """Give the place to the task that had none for longest."""
        while self._waiting:
            key, queue = next(iter(self._waiting.items()))
            first = queue.popleft()
            if first.done():  # it was cancelled
                if not queue:
                    del self._waiting[key]
                continue
            del self._waiting[key]
            if queue:
                self._waiting[key] = queue
            first.set_result(None)
            return
        self._free += 1
