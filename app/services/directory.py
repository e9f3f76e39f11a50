"""The stored tasks as the hot path sees them: active versions, remembered until they change."""

import asyncio
from collections import OrderedDict
from typing import final
from weakref import WeakValueDictionary

from app.registry.records import TaskRecord
from app.registry.repository import Registry
from app.services.workers import Workers


@final
class Directory:
    """Reads tasks through a small cache, so that a prediction costs no query.

    Every change goes through `changed`, which is why one process owns a registry. `lock` puts the
    changes of one task in a row.
    """

    def __init__(self, registry: Registry, workers: Workers, size: int = 20_000) -> None:
        self._registry = registry
        self._workers = workers
        self._size = size
        self._records: OrderedDict[str, TaskRecord] = OrderedDict()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._changes = 0

    async def task(self, task_id: str) -> TaskRecord:
        """The task and its active version. Raises `TaskNotFound`, `TaskDeleted`."""
        record = self._records.get(task_id)
        if record is not None:
            self._records.move_to_end(task_id)
            return record
        changes = self._changes
        record = await self._workers.store(self._registry.task, task_id)
        if changes == self._changes:  # else it may be older than a change that was made meanwhile
            self._keep(record)
        return record

    def lock(self, task_id: str) -> asyncio.Lock:
        """The lock that a change of this task holds."""
        return self._locks.setdefault(task_id, asyncio.Lock())

    def changed(self, record: TaskRecord) -> TaskRecord:
        """Take over what was just written."""
        self._changes += 1
        self._keep(record)
        return record

    def removed(self, task_id: str) -> None:
        """Forget a task."""
        self._changes += 1
        self._records.pop(task_id, None)

    def _keep(self, record: TaskRecord) -> None:
        self._records[record.id] = record
        self._records.move_to_end(record.id)
        if len(self._records) > self._size:
            self._records.popitem(last=False)
