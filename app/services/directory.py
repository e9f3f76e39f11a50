"""The stored tasks as the hot path sees them: active versions, remembered until they change."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import TypeAlias, TypeVar, final
from weakref import WeakValueDictionary

from app.registry.records import NewTask, NewVersion, TaskRecord
from app.registry.repository import Registry
from app.services.workers import Workers

T = TypeVar("T")

Reading: TypeAlias = tuple[str, int, bool]
"""Of a task, after so many changes, with its state or without."""


@final
class Directory:
    """Reads tasks through a small cache, so that a prediction costs no query.

    Every change goes through here, which is why one process owns a registry. `lock` puts the
    changes of one task in a row.
    """

    def __init__(self, registry: Registry, workers: Workers, size: int = 20_000) -> None:
        self._registry = registry
        self._workers = workers
        self._size = size
        self._records: OrderedDict[str, TaskRecord] = OrderedDict()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._readings: dict[Reading, asyncio.Task[tuple[TaskRecord, bytes | None]]] = {}
        self._changes = 0

    async def task(self, task_id: str) -> TaskRecord:
        """The task and its active version. Raises `TaskNotFound`, `TaskDeleted`."""
        return self.known(task_id) or (await self._once(task_id, with_state=False))[0]

    async def task_and_state(self, task_id: str) -> tuple[TaskRecord, bytes | None]:
        """The same; where that takes a query, it brings the active version's state along, if that is in the database.

        For who is going to ask for the state next, and hardly finds it remembered where the task is not.
        """
        record = self.known(task_id)
        return await self._once(task_id, with_state=True) if record is None else (record, None)

    def known(self, task_id: str) -> TaskRecord | None:
        """The task, if it can be told without a query."""
        record = self._records.get(task_id)
        if record is not None:
            self._records.move_to_end(task_id)
        return record

    async def _once(self, task_id: str, *, with_state: bool) -> tuple[TaskRecord, bytes | None]:
        """Read once for all that wait, except for those that came after a change: what is being read may be older."""
        key = (task_id, self._changes, with_state)
        reading = self._readings.get(key)
        if reading is None:
            reading = self._readings[key] = asyncio.ensure_future(self._read(*key))
            reading.add_done_callback(partial(self._read_off, key))
        return await asyncio.shield(reading)

    async def _read(self, task_id: str, changes: int, with_state: bool) -> tuple[TaskRecord, bytes | None]:
        state = None
        if with_state:
            record, state = await self._workers.store(self._registry.task_and_state, task_id)
        else:
            record = await self._workers.store(self._registry.task, task_id)
        if changes == self._changes:
            self._keep(record)
        return record, state

    def _read_off(self, key: Reading, reading: asyncio.Task[tuple[TaskRecord, bytes | None]]) -> None:
        del self._readings[key]
        if not reading.cancelled():
            reading.exception()  # looked at, so that asyncio does not warn where every waiter has gone

    def lock(self, task_id: str) -> asyncio.Lock:
        """The lock that a change of this task holds."""
        return self._locks.setdefault(task_id, asyncio.Lock())

    async def create(self, task: NewTask, version: NewVersion) -> TaskRecord:
        """Store a new task. Raises `NameTaken`."""
        return self._keep(await self._seen_through(None, partial(self._registry.create_task, task, version)))

    async def change(self, task_id: str, function: Callable[[], TaskRecord]) -> TaskRecord:
        """Run one change of a task in the registry and remember the task as it is then."""
        return self._keep(await self._seen_through(task_id, function))

    async def delete(self, task_id: str, function: Callable[[], None]) -> None:
        """Delete a task in the registry and forget it."""
        await self._seen_through(task_id, function)

    async def _seen_through(self, task_id: str | None, function: Callable[[], T]) -> T:
        try:
            return await self._workers.store_fully(function)
        finally:
            # Also after a failure: it may mean that somebody else changed the task.
            self._forget(task_id)

    def _forget(self, task_id: str | None) -> None:
        self._changes += 1
        if task_id is not None:
            self._records.pop(task_id, None)

    def _keep(self, record: TaskRecord) -> TaskRecord:
        self._records[record.id] = record
        self._records.move_to_end(record.id)
        if len(self._records) > self._size:
            self._records.popitem(last=False)
        return record
