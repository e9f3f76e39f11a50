"""Reads and writes of tasks, inside a transaction that the caller holds."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from sqlalchemy import bindparam, delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.registry.errors import NameTaken, RevisionConflict, TaskDeleted, TaskNotFound
from app.registry.paging import cut_page, decode_cursor
from app.registry.records import NewTask, NewVersion, Page, TaskRecord
from app.registry.session import insert_missing
from app.registry.tables import TaskLabelTable, TaskTable, VersionTable
from app.registry.versions import get_version, insert_version, live_row, version_record

ACTIVE_VERSION = (VersionTable.task_id == TaskTable.id) & (VersionTable.number == TaskTable.active_version)


_ACTIVE: Final = (
    select(TaskTable, VersionTable)
    .join(VersionTable, ACTIVE_VERSION)
    .where(TaskTable.id == bindparam("task_id"))
    .execution_options(populate_existing=True)
)
"""Made once: to put a statement together takes longer than to run it."""


_WITH_STATE: Final = _ACTIVE.add_columns(VersionTable.state)


def get_task(session: Session, task_id: str) -> TaskRecord:
    """Read a live task with its active version, in one statement. Raises `TaskNotFound`, `TaskDeleted`."""
    task, version = session.execute(_ACTIVE, {"task_id": task_id}).one_or_none() or (None, None)
    return _live_record(task_id, task, version)


def get_task_and_state(session: Session, task_id: str) -> tuple[TaskRecord, bytes | None]:
    """The same with the active version's state, which is `None` where it lies in a blob; in one statement, too."""
    task, version, state = session.execute(_WITH_STATE, {"task_id": task_id}).one_or_none() or (None, None, None)
    return _live_record(task_id, task, version), state


def _live_record(task_id: str, task: TaskTable | None, version: VersionTable | None) -> TaskRecord:
    if task is None or version is None:
        raise TaskNotFound(task_id)
    if task.deleted_at is not None:
        raise TaskDeleted(task_id)
    return _task_record(task, version)


def list_tasks(
    session: Session, cursor: str | None, limit: int, label: str | None, name: str | None
) -> Page[TaskRecord]:
    """Read a page of live tasks, newest first, in one statement. Raises `BadCursor`."""
    statement = (
        select(TaskTable, VersionTable)
        .join(VersionTable, ACTIVE_VERSION)
        .where(TaskTable.deleted_at.is_(None))
        .order_by(TaskTable.id.desc())
        .limit(limit + 1)
    )
    if cursor is not None:
        statement = statement.where(TaskTable.id < decode_cursor("tasks", cursor))
    if name is not None:
        statement = statement.where(TaskTable.name == name)
    if label is not None:
        labelled = (TaskLabelTable.task_id == TaskTable.id) & (TaskLabelTable.label == label)
        statement = statement.join(TaskLabelTable, labelled)
    records = [_task_record(task, version) for task, version in session.execute(statement)]
    return cut_page("tasks", records, limit, lambda record: record.id)


def insert_task(session: Session, task_id: str, task: NewTask, version: NewVersion, now: datetime) -> TaskRecord:
    """Write a task with its first version. Raises `NameTaken`."""
    _require_free_name(session, task.name, task_id)
    row = TaskTable(
        id=task_id,
        name=task.name,
        backbone=task.backbone,
        modality=task.modality,
        learner_requested=task.learner_requested,
        learner_settings_requested=dict(task.learner_settings_requested),
        store_inputs=task.store_inputs,
        active_version=1,
        next_version=2,
        revision=1,
        created_at=now,
        updated_at=now,
        deleted_at=None,
    )
    session.add(row)
    _flush_name(session, task.name)
    stored = insert_version(session, task_id, 1, version, now)
    _set_labels(session, task_id, set(), set(version.labels))
    return _task_record(row, stored)


def insert_next_version(
    session: Session, task_id: str, version: NewVersion, expected_revision: int | None, now: datetime
) -> TaskRecord:
    """Write a task's next version and make it the active one. Raises `RevisionConflict`."""
    number = live_row(session, task_id).next_version
    labels_before = set(get_task(session, task_id).version.labels)
    _bump(session, task_id, expected_revision, {"active_version": number, "next_version": number + 1}, now)
    insert_version(session, task_id, number, version, now)
    _set_labels(session, task_id, labels_before, set(version.labels))
    return get_task(session, task_id)


def set_active_version(
    session: Session, task_id: str, number: int, expected_revision: int | None, now: datetime
) -> TaskRecord:
    """Let a stored version answer. Raises `VersionNotFound`, `RevisionConflict`."""
    labels_before = set(get_task(session, task_id).version.labels)
    labels = set(get_version(session, task_id, number).labels)
    _bump(session, task_id, expected_revision, {"active_version": number}, now)
    _set_labels(session, task_id, labels_before, labels)
    return get_task(session, task_id)


def set_name(
    session: Session, task_id: str, name: str | None, expected_revision: int | None, now: datetime
) -> TaskRecord:
    """Rename a task; `None` takes its name away. Raises `NameTaken`, `RevisionConflict`."""
    live_row(session, task_id)
    _require_free_name(session, name, task_id)
    try:
        _bump(session, task_id, expected_revision, {"name": name}, now)
    except IntegrityError as error:  # PostgreSQL: another transaction took it after we looked
        raise NameTaken(str(name)) from error
    return get_task(session, task_id)


def mark_deleted(session: Session, task_id: str, expected_revision: int | None, now: datetime) -> None:
    """Delete a task softly: its rows stay, its name is free, reading it raises `TaskDeleted`."""
    live_row(session, task_id)
    _bump(session, task_id, expected_revision, {"deleted_at": now}, now)
    session.execute(delete(TaskLabelTable).where(TaskLabelTable.task_id == task_id))


def _require_free_name(session: Session, name: str | None, task_id: str) -> None:
    if name is None:
        return
    taken = select(TaskTable.id).where(TaskTable.name == name, TaskTable.deleted_at.is_(None), TaskTable.id != task_id)
    if session.scalar(taken) is not None:
        raise NameTaken(name)


def _flush_name(session: Session, name: str | None) -> None:
    try:
        session.flush()
    except IntegrityError as error:  # PostgreSQL: another transaction took it after we looked
        if name is None:
            raise
        raise NameTaken(name) from error


def _bump(
    session: Session, task_id: str, expected_revision: int | None, changes: Mapping[str, Any], now: datetime
) -> None:
    """Change a live task's row, if nobody else has meanwhile. Raises `RevisionConflict`."""
    read_revision = live_row(session, task_id).revision
    if expected_revision not in {None, read_revision}:
        raise RevisionConflict(task_id)
    statement = (
        update(TaskTable)
        .where(TaskTable.id == task_id, TaskTable.revision == read_revision, TaskTable.deleted_at.is_(None))
        .values(revision=read_revision + 1, updated_at=now, **changes)
        .execution_options(synchronize_session=False)
        .returning(TaskTable.id)
    )
    # On PostgreSQL two transactions may have read the same revision: the second then matches no row.
    if session.scalar(statement) is None:
        raise RevisionConflict(task_id)


def _set_labels(session: Session, task_id: str, before: set[str], after: set[str]) -> None:
    gone = [{"task_id": task_id, "label": label} for label in sorted(before - after)]
    for row in gone:
        session.execute(delete(TaskLabelTable).filter_by(**row))
    insert_missing(session, TaskLabelTable, [{"task_id": task_id, "label": label} for label in sorted(after - before)])


def _task_record(task: TaskTable, version: VersionTable) -> TaskRecord:
    return TaskRecord(
        id=task.id,
        name=task.name,
        backbone=task.backbone,
        modality=task.modality,
        learner_requested=task.learner_requested,
        learner_settings_requested=task.learner_settings_requested,
        store_inputs=task.store_inputs,
        active_version=task.active_version,
        revision=task.revision,
        created_at=task.created_at,
        updated_at=task.updated_at,
        version=version_record(version),
    )
