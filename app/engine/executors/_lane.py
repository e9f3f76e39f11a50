"""A thread of one's own, for calls that may never come back."""

import weakref
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread
from typing import Any, Generic, TypeAlias, TypeVar, final

from app.core.threads import name_this_thread

T = TypeVar("T")

_Calls: TypeAlias = "SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]"


@final
class Lane(Generic[T]):
    """Runs one call after the other.

    Unlike a `ThreadPoolExecutor`, it is no reason for a process to stay: the pool's threads are waited for at the exit,
    and so one call that hangs in a library keeps it from ending. The thread ends when nobody holds the lane any more.
    """

    def __init__(self, name: str) -> None:
        self._calls: _Calls = SimpleQueue()
        Thread(target=_serve, args=(self._calls, name), name=name, daemon=True).start()
        weakref.finalize(self, self._calls.put, None)

    def begin(self, call: Callable[[], T]) -> Callable[[], T]:
        """Queue a call. Gives what waits for its result, and raises what it raised."""
        future: Future[T] = Future()
        self._calls.put((future, call))
        return future.result


def _serve(calls: _Calls, name: str) -> None:
    name_this_thread(name)
    while _one(calls):
        pass


def _one(calls: _Calls) -> bool:
    """Run the next call. Its tensors live in here alone, so that none is kept while there is none."""
    found = calls.get()
    if found is None:
        return False
    future, call = found
    try:
        future.set_result(call())
    except BaseException as error:  # noqa: BLE001 - whoever waits gets it
        future.set_exception(error)
    return True
