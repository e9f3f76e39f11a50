"""Adapted states on the device: a byte-budgeted LRU with pins and single-flight loads."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from types import TracebackType
from typing import TypeAlias, final

import torch

from app.core.episode import TaskState
from app.engine.copies import to_device
from app.engine.observer import CacheEvent, EngineObserver, NullObserver

Load = Callable[[], TaskState]

GRAIN_BYTES = {"cpu": 1, "cuda": 512}
"""What a tensor takes is a multiple of so many bytes."""

Form: TypeAlias = tuple[tuple[str, torch.Size, torch.dtype], ...]
"""Names, shapes and types of a state's tensors."""


@final
class NotPinned(RuntimeError):
    """A state is asked for outside of its `async with`: whoever wanted it has gone."""

    def __init__(self) -> None:
        super().__init__("the state is not pinned")


@final
class _Entry:
    """One state. `cached` says whether its bytes are counted; `listed` whether it can still be found."""

    def __init__(self) -> None:
        self.state: TaskState = {}
        self.form: Form = ()
        self.device: torch.device | None = None
        self.loading: asyncio.Task[None] | None = None
        self.size_bytes = 0
        self.pins = 0
        self.cached = False
        self.listed = True


@final
class StateCache:
    """Keeps at most `budget_bytes` of states; the one used longest ago goes first.

    A state in use is pinned and stays. One that does not fit beside the pinned ones, or is larger than
    the budget, is served without being kept, so the cached bytes are never over the budget. Loads
    run in a thread, once for all that wait; a failed load is forgotten. `pinned` belongs to one event
    loop; the rest may be called from any thread. `kind` is that of the device on which states are used.
    """

    def __init__(self, budget_bytes: int, observer: EngineObserver | None = None, kind: str = "cpu") -> None:
        self.budget_bytes = budget_bytes
        self._grain_bytes = GRAIN_BYTES.get(kind, 1)
        self._observer: EngineObserver = observer or NullObserver()
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._size_bytes = 0
        self._lock = Lock()

    @property
    def size_bytes(self) -> int:
        """Bytes of the cached states, with discarded ones that are still in use."""
        return self._size_bytes

    def __len__(self) -> int:
        return sum(entry.cached for entry in list(self._entries.values()))

    def __contains__(self, key: Hashable) -> bool:
        entry = self._entries.get(key)
        return entry is not None and entry.cached

    def pinned(self, key: Hashable, load: Load) -> "Pin":
        """Use a state: `async with cache.pinned(key, load) as entry: entry.state(device)`.

        `load` gives the state's tensors on the CPU; it runs in a thread, and only when the state is
        not here. Raises what `load` raises.
        """
        return Pin(self, key, load)

    def discard(self, key: Hashable) -> None:
        """Forget a state; one in use is freed after its last user. The next use loads it again."""
        with self._lock:
            entry = self._entries.pop(key, None)
            if entry is None:
                return
            entry.listed = False
            if not entry.pins:
                self._free(entry)
        self._observer.on_cache("discard", self._size_bytes)

    def _pin(self, key: Hashable, load: Load) -> _Entry:
        """The entry, pinned; on a miss its load is begun."""
        event: CacheEvent = "hit"
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                event = "miss"
                entry = self._entries[key] = _Entry()
                # A task of its own: a waiter that is cancelled does not take the load away from the others.
                entry.loading = asyncio.get_running_loop().create_task(self._load(key, entry, load))
                entry.loading.add_done_callback(_retrieve)
            else:
                self._entries.move_to_end(key)
            entry.pins += 1
        self._observer.on_cache(event, self._size_bytes)
        return entry

    def _unpin(self, entry: _Entry) -> None:
        with self._lock:
            entry.pins -= 1
            if not entry.pins and not entry.listed:
                self._free(entry)

    async def _load(self, key: Hashable, entry: _Entry, load: Load) -> None:
        try:
            state = await asyncio.get_running_loop().run_in_executor(None, load)
        except BaseException:
            with self._lock:
                self._unlist(key, entry)
            raise
        size_bytes = sum(-(-tensor.nbytes // self._grain_bytes) * self._grain_bytes for tensor in state.values())
        form = tuple((name, state[name].shape, state[name].dtype) for name in sorted(state))
        with self._lock:
            entry.state, entry.form, entry.size_bytes, entry.loading = state, form, size_bytes, None
            evicted = self._keep(key, entry)
        for _ in range(evicted):
            self._observer.on_cache("evict", self._size_bytes)
        self._observer.on_cache("load" if entry.cached else "uncached", self._size_bytes)

    def _keep(self, key: Hashable, entry: _Entry) -> int:
        """Count the entry as cached if room can be made, else take it off the list; gives the evictions."""
        surplus = self._size_bytes + entry.size_bytes - self.budget_bytes
        victims = []
        for other_key, other in self._entries.items():
            if surplus <= 0:
                break
            if other.cached and not other.pins:
                victims.append((other_key, other))
                surplus -= other.size_bytes
        if surplus > 0 or not entry.listed:
            self._unlist(key, entry)
            return 0
        for other_key, other in victims:
            self._unlist(other_key, other)
            self._free(other)
        entry.cached = True
        self._size_bytes += entry.size_bytes
        return len(victims)

    def _unlist(self, key: Hashable, entry: _Entry) -> None:
        entry.listed = False
        if self._entries.get(key) is entry:
            del self._entries[key]

    def _free(self, entry: _Entry) -> None:
        if entry.cached:
            entry.cached = False
            self._size_bytes -= entry.size_bytes


@final
class Pin:
    """One use of a state, from entering `async with` to leaving it."""

    def __init__(self, cache: StateCache, key: Hashable, load: Load) -> None:
        self._cache = cache
        self._key = key
        self._load = load
        self._entry: _Entry | None = None
        self.load_s = 0.0
        """Seconds that this user waited for the load; 0 when the state was there."""

    async def __aenter__(self) -> "Pin":
        entry = self._cache._pin(self._key, self._load)
        if entry.loading is not None:
            started_s = time.monotonic()
            try:
                await asyncio.shield(entry.loading)
            except BaseException:
                self._cache._unpin(entry)
                raise
            self.load_s = time.monotonic() - started_s
        self._entry = entry
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._entry is not None:
            self._cache._unpin(self._entry)
            self._entry = None

    @property
    def form(self) -> Form:
        """What the state looks like. Raises: `NotPinned` outside of the `async with`."""
        if self._entry is None:
            raise NotPinned
        return self._entry.form

    def state(self, device: torch.device) -> TaskState:
        """The tensors on `device`. Call it in a head: copying to an accelerator is the device thread's.

        Raises: `NotPinned` outside of the `async with`.
        """
        entry = self._entry
        if entry is None:
            raise NotPinned
        if entry.device != device:
            # The copy takes the original's place, so the bytes are held once, where they are used.
            entry.state = {name: to_device(tensor, device) for name, tensor in entry.state.items()}
            entry.device = device
        return entry.state


def _retrieve(load: asyncio.Task[None]) -> None:
    """Look at the load's error, so that asyncio does not warn where every waiter has gone."""
    if not load.cancelled():
        load.exception()
