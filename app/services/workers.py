"""The threads beside the event loop: nothing decodes and nothing queries on the loop itself."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar, final

P = ParamSpec("P")
T = TypeVar("T")

STORE_THREADS = 8


@final
class Workers:
    """Two pools, so that a long decode never holds up a short query."""

    def __init__(self, decode_threads: int) -> None:
        self._decode = ThreadPoolExecutor(decode_threads, thread_name_prefix="decode")
        self._store = ThreadPoolExecutor(STORE_THREADS, thread_name_prefix="store")

    async def decode(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run what turns bytes into tensors, or tensors into bytes."""
        return await asyncio.get_running_loop().run_in_executor(self._decode, lambda: function(*args, **kwargs))

    async def store(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run what talks to the registry."""
        return await asyncio.get_running_loop().run_in_executor(self._store, lambda: function(*args, **kwargs))

    async def store_fully(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a write to its end. A caller that is cancelled meanwhile has come too late: the write counts."""
        writing = asyncio.ensure_future(self.store(function, *args, **kwargs))
        try:
            return await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.wait({writing})
            return writing.result()

    def close(self) -> None:
        """Wait for what runs, and end the threads."""
        self._decode.shutdown()
        self._store.shutdown()
