"""The registry: everything that outlives a restart. Services call it from threads."""

import os
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import final

from sqlalchemy import select

from app.registry import contents, examples, predictions, tasks, versions
from app.registry.blobs import BlobStore, FolderBlobs
from app.registry.errors import DatabaseDown
from app.registry.idempotency import IdempotencyKeys
from app.registry.ids import IdMaker
from app.registry.migrate import upgrade
from app.registry.records import (
    ExampleFeatures,
    ExampleRecord,
    NewPrediction,
    NewTask,
    NewVersion,
    Page,
    PredictionRecord,
    TaskRecord,
    VersionRecord,
)
from app.registry.session import Database
from app.registry.tables import TaskTable


def utc_now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


@final
class Registry:
    """Tasks, versions, examples, predictions, idempotency keys and blobs.

    `url` is SQLAlchemy's (`sqlite:////folder/imprint.sqlite`, `postgresql+psycopg://...`); blobs lie under
    `data_dir/blobs` unless `blobs` is given. Call `migrate` before anything else and `close` at the end.
    Synchronous and thread-safe; each call is one short transaction. Lists run newest first, save examples,
    which run by id; `limit` is 1 or more.

    Raises, from any call: `DatabaseLocked` (with `retry_after_s`) when a write waited for `busy_timeout_s`,
    `DatabaseDown`, `DatabaseCorrupt`; from writes `DiskFull`, after which nothing of the call is stored.
    """

    def __init__(
        self,
        url: str,
        data_dir: Path,
        *,
        busy_timeout_s: float = 5.0,
        clock: Callable[[], datetime] = utc_now,
        blobs: BlobStore | None = None,
    ) -> None:
        self._data_dir = data_dir
        self._clock = clock
        self._ids = IdMaker()
        self._blobs = blobs if blobs is not None else FolderBlobs(data_dir / "blobs")
        self._database = Database(url, busy_timeout_s=busy_timeout_s)
        self.idempotency = IdempotencyKeys(self._database, clock)

    def migrate(self) -> None:
        """Bring the schema up to this release's. Raises `DatabaseTooNew`."""
        upgrade(self._database)
        if isinstance(self._blobs, FolderBlobs):
            self._blobs.remove_leftovers()

    def close(self) -> None:
        """Close every connection."""
        self._database.close()

    def check(self) -> None:
        """Say whether the registry can be used, cheaply. Raises a member of `Unavailable`."""
        with self._database.read() as session:
            session.execute(select(TaskTable.id).limit(1))
        if not os.access(self._data_dir, os.W_OK):
            raise DatabaseDown

    def create_task(self, task: NewTask, version: NewVersion) -> TaskRecord:
        """Store a task with its first version. Raises `NameTaken`."""
        self._put_large(version)
        with self._database.write() as session:
            return tasks.insert_task(session, self._ids.new("tsk"), task, version, self._clock())

    def task(self, task_id: str) -> TaskRecord:
        """Read a task. Raises `TaskNotFound`, `TaskDeleted`."""
        with self._database.read() as session:
            return tasks.get_task(session, task_id)

    def task_and_state(self, task_id: str) -> tuple[TaskRecord, bytes | None]:
        """Read a task and its active version's state, as far as that is in the database: `None` for one in a blob.

        Raises: as `task`.
        """
        with self._database.read() as session:
            return tasks.get_task_and_state(session, task_id)

    def tasks(
        self, cursor: str | None = None, limit: int = 50, label: str | None = None, name: str | None = None
    ) -> Page[TaskRecord]:
        """Read a page of live tasks: of those whose active version has `label`, of the one called `name`.

        Raises: `BadCursor`.
        """
        with self._database.read() as session:
            return tasks.list_tasks(session, cursor, limit, label, name)

    def rename_task(self, task_id: str, name: str | None, expected_revision: int | None = None) -> TaskRecord:
        """Change or (`None`) remove a task's name.

        Raises: `NameTaken`, `TaskNotFound`, `TaskDeleted`; `RevisionConflict` where the task's revision is not
        the expected one (`None` expects nothing).
        """
        with self._database.write() as session:
            return tasks.set_name(session, task_id, name, expected_revision, self._clock())

    def delete_task(self, task_id: str, expected_revision: int | None = None) -> None:
        """Delete a task: it reads as `TaskDeleted`, its name is free. Raises as `rename_task`."""
        with self._database.write() as session:
            tasks.mark_deleted(session, task_id, expected_revision, self._clock())

    def add_version(self, task_id: str, version: NewVersion, expected_revision: int | None) -> TaskRecord:
        """Store a task's next version and make it the active one.

        Raises: as `rename_task`; `ValueError` for a version that contradicts itself. Of concurrent calls that
        expect the same revision exactly one succeeds.
        """
        self._put_large(version)
        with self._database.write() as session:
            return tasks.insert_next_version(session, task_id, version, expected_revision, self._clock())

    def activate(self, task_id: str, number: int, expected_revision: int | None = None) -> TaskRecord:
        """Let an older (or newer) version answer. Raises `VersionNotFound` and as `rename_task`."""
        with self._database.write() as session:
            return tasks.set_active_version(session, task_id, number, expected_revision, self._clock())

    def versions(self, task_id: str, cursor: str | None = None, limit: int = 50) -> Page[VersionRecord]:
        """Read a page of a task's versions. Raises `BadCursor`, `TaskNotFound`, `TaskDeleted`."""
        with self._database.read() as session:
            return versions.list_versions(session, task_id, cursor, limit)

    def version(self, task_id: str, number: int) -> VersionRecord:
        """Read a version. Raises `VersionNotFound`, `TaskNotFound`, `TaskDeleted`."""
        with self._database.read() as session:
            return versions.get_version(session, task_id, number)

    def load_state(self, task_id: str, number: int) -> bytes:
        """Read a version's adapted state (safetensors). Raises as `version`; `BlobMissing`, `BlobCorrupt`."""
        with self._database.read() as session:
            state, blob = versions.get_state(session, task_id, number)
        if blob is not None:
            return self._blobs.get(blob)
        return state or b""

    def examples(
        self,
        task_id: str,
        version: int,
        cursor: str | None = None,
        limit: int = 50,
        label: str | None = None,
    ) -> Page[ExampleRecord]:
        """Read a page of a version's examples, of one label where `label` is given. Raises as `versions`, `version`."""
        with self._database.read() as session:
            return examples.list_examples(session, task_id, version, cursor, limit, label)

    def example_features(self, task_id: str, version: int) -> list[ExampleFeatures]:
        """Read all of a version's examples with their embeddings, sorted by (content_sha256, label).

        The order is that of the set alone, whatever the order in which its members came. Raises as `version`.
        """
        with self._database.read() as session:
            return examples.get_features(session, task_id, version)

    def record_predictions(self, new_predictions: Sequence[NewPrediction]) -> list[str]:
        """Store predictions; returns their ids in order. Raises `TaskNotFound`, `TaskDeleted`."""
        contents.put_large(self._blobs, [(item.input_sha256, item.content) for item in new_predictions])
        ids = [self._ids.new("prd") for _ in new_predictions]
        with self._database.write() as session:
            predictions.insert_predictions(session, ids, new_predictions, self._clock())
        return ids

    def prediction(self, prediction_id: str) -> PredictionRecord:
        """Read a prediction. Raises `PredictionNotFound`, `TaskDeleted`."""
        with self._database.read() as session:
            return predictions.get_prediction(session, prediction_id)

    def predictions(self, task_id: str, cursor: str | None = None, limit: int = 50) -> Page[PredictionRecord]:
        """Read a page of a task's predictions. Raises `BadCursor`, `TaskNotFound`, `TaskDeleted`."""
        with self._database.read() as session:
            return predictions.list_predictions(session, task_id, cursor, limit)

    def read_blob(self, sha256: str) -> bytes:
        """Read a stored input by its `input_blob`. Raises `BlobMissing`, `BlobCorrupt`."""
        with self._database.read() as session:
            content = contents.read_small(session, sha256)
        return self._blobs.get(sha256) if content is None else content

    def read_blobs(self, sha256s: Collection[str]) -> dict[str, bytes]:
        """Read many stored inputs at once. Raises `BlobMissing`, `BlobCorrupt`."""
        with self._database.read() as session:
            found = contents.read_many_small(session, sha256s)
        return {one: found[one] if one in found else self._blobs.get(one) for one in sorted(sha256s)}

    def _put_large(self, version: NewVersion) -> None:
        new = [(example.content_sha256, example.content) for example in version.new_examples]
        contents.put_large(self._blobs, new, version.state)
