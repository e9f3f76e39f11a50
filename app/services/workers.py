"""The threads beside the event loop: nothing decodes and nothing queries on the loop itself."""

import asyncio
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final, ParamSpec, TypeVar, final

from app.core.threads import name_this_thread
from app.services.turns import Turns

P = ParamSpec("P")
T = TypeVar("T")

STORE_THREADS = 8

DECODES_A_THREAD: Final = 2
"""Inputs of so many requests are in the pool for each of its threads, one of them in its queue, which knows no tasks;
the others wait for their turn."""


@final
class Workers:
    """Two pools, so that a long decode never holds up a short query."""

    def __init__(self, decode_threads: int) -> None:
        self.decode_threads = decode_threads
        self._decode = _pool(decode_threads, "imprint-decode")
        self._turns = Turns(DECODES_A_THREAD * decode_threads)
        self._store = _pool(STORE_THREADS, "imprint-store")

    async def decode(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run what turns bytes into tensors, or tensors into bytes."""
        return await asyncio.get_running_loop().run_in_executor(self._decode, lambda: function(*args, **kwargs))

    async def decode_for(self, task: Hashable, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Decode what was sent to a task, when it is the task's turn; without one the request has turns of its own."""
        async with self._turns.turn(task):
            return await self.decode(function, *args, **kwargs)

    async def store(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run what talks to the registry."""
        return await asyncio.get_running_loop().run_in_executor(self._store, lambda: function(*args, **kwargs))

    async def store_fully(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a write to its end. A caller that is cancelled meanwhile has come too late: the write counts."""
        writing = asyncio.ensure_future(self.store(function, *args, **kwargs))
        try:
            return await asyncio.shield(writing)
        except asyncio.CancelledError:
            while not writing.done():  # whoever cancels again comes too late as well
                with suppress(asyncio.CancelledError):
                    await asyncio.wait({writing})
            return writing.result()

    def close(self) -> None:
        """Wait for what runs, and end the threads."""
        self._decode.shutdown()
        self._store.shutdown()


def _pool(threads: int, name: str) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, name, initializer=name_this_thread, initargs=(name,))
