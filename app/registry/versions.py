"""Reads and writes of a task's versions, inside a transaction that the caller holds."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from sqlalchemy import bindparam, insert, select
from sqlalchemy.orm import Session

from app.registry.blobs import sha256_hex
from app.registry.contents import INLINE_STATE_BYTES, insert_small
from app.registry.errors import TaskDeleted, TaskNotFound, VersionNotFound
from app.registry.paging import cut_page, decode_number
from app.registry.records import NewVersion, Page, VersionRecord
from app.registry.session import insert_missing
from app.registry.tables import ExampleTable, TaskTable, VersionExampleTable, VersionTable


def live_row(session: Session, task_id: str) -> TaskTable:
    """Read a task's row. Raises `TaskNotFound`, `TaskDeleted`."""
    task = session.get(TaskTable, task_id)
    if task is None:
        raise TaskNotFound(task_id)
    if task.deleted_at is not None:
        raise TaskDeleted(task_id)
    return task


def get_version(session: Session, task_id: str, number: int) -> VersionRecord:
    """Read one version. Raises `VersionNotFound`, `TaskNotFound`, `TaskDeleted`."""
    statement = (
        select(VersionTable)
        .join(TaskTable, TaskTable.id == VersionTable.task_id)
        .where(VersionTable.task_id == task_id, VersionTable.number == number, TaskTable.deleted_at.is_(None))
    )
    version = session.scalar(statement)
    if version is None:
        live_row(session, task_id)
        raise VersionNotFound(task_id, number)
    return version_record(version)


def list_versions(session: Session, task_id: str, cursor: str | None, limit: int) -> Page[VersionRecord]:
    """Read a page of a task's versions, newest first. Raises `BadCursor`, `TaskNotFound`, `TaskDeleted`."""
    live_row(session, task_id)
    statement = select(VersionTable).where(VersionTable.task_id == task_id)
    if cursor is not None:
        statement = statement.where(VersionTable.number < decode_number("versions", cursor))
    rows = session.scalars(statement.order_by(VersionTable.number.desc()).limit(limit + 1))
    return cut_page("versions", [version_record(row) for row in rows], limit, lambda record: str(record.number))


_STATE: Final = (
    select(VersionTable.state, VersionTable.state_blob)
    .join(TaskTable, TaskTable.id == VersionTable.task_id)
    .where(
        VersionTable.task_id == bindparam("task_id"),
        VersionTable.number == bindparam("number"),
        TaskTable.deleted_at.is_(None),
    )
)
"""Made once: to put a statement together takes longer than to run it."""


def get_state(session: Session, task_id: str, number: int) -> tuple[bytes | None, str | None]:
    """Read a version's state, or the blob it lies in, in one statement. Raises as `get_version`."""
    row = session.execute(_STATE, {"task_id": task_id, "number": number}).one_or_none()
    if row is None:
        live_row(session, task_id)
        raise VersionNotFound(task_id, number)
    return row.state, row.state_blob


def insert_version(session: Session, task_id: str, number: int, version: NewVersion, now: datetime) -> VersionTable:
    """Write a version with its new examples and its membership. Raises `ValueError` as `_count_shots`."""
    members = sorted(set(version.example_ids))
    _insert_examples(session, task_id, version, now)
    label_of = {example.id: example.label for example in version.new_examples}
    if not label_of.keys() >= set(members):
        label_of = _stored_labels(session, task_id)
    shots = _count_shots(label_of, members, version.labels)
    inline = len(version.state) <= INLINE_STATE_BYTES
    row = VersionTable(
        task_id=task_id,
        number=number,
        parent=version.parent,
        change=version.change,
        created_at=now,
        backbone_sha256=version.backbone_sha256,
        learner=version.learner,
        learner_settings=dict(version.learner_settings),
        shots=shots,
        dim=version.dim,
        selection=None if version.selection is None else dict(version.selection),
        held_out=None if version.held_out is None else dict(version.held_out),
        adaptation=None if version.adaptation is None else dict(version.adaptation),
        warnings=list(version.warnings),
        timing=dict(version.timing),
        state_size_bytes=len(version.state),
        state_blob=None if inline else sha256_hex(version.state),
        state=version.state if inline else None,
    )
    session.add(row)
    session.flush()
    membership = [{"task_id": task_id, "version": number, "example_id": member} for member in members]
    session.execute(insert(VersionExampleTable), membership)
    return row


def version_record(version: VersionTable) -> VersionRecord:
    """Turn a row into a plain value."""
    return VersionRecord(
        task_id=version.task_id,
        number=version.number,
        parent=version.parent,
        change=version.change,
        created_at=version.created_at,
        backbone_sha256=version.backbone_sha256,
        learner=version.learner,
        learner_settings=version.learner_settings,
        shots=version.shots,
        dim=version.dim,
        selection=version.selection,
        held_out=version.held_out,
        warnings=tuple(version.warnings),
        timing=version.timing,
        state_size_bytes=version.state_size_bytes,
        adaptation=version.adaptation,
    )


def _insert_examples(session: Session, task_id: str, version: NewVersion, now: datetime) -> None:
    insert_small(session, [(example.content_sha256, example.content) for example in version.new_examples])
    rows = [
        {
            "task_id": task_id,
            "id": example.id,
            "label": example.label,
            "content_sha256": example.content_sha256,
            "media_type": example.media_type,
            "size_bytes": example.size_bytes,
            "input_blob": None if example.content is None else example.content_sha256,
            "truncated": example.truncated,
            "created_at": now,
            "features": example.features,
        }
        for example in version.new_examples
    ]
    # An example that an earlier version held is stored already: its id names its label and content.
    insert_missing(session, ExampleTable, rows)


def _stored_labels(session: Session, task_id: str) -> dict[str, str]:
    """The label of each of a task's examples."""
    statement = select(ExampleTable.id, ExampleTable.label).where(ExampleTable.task_id == task_id)
    return dict(session.execute(statement).all())


def _count_shots(label_of: Mapping[str, str], members: list[str], labels: tuple[str, ...]) -> dict[str, int]:
    """Examples by label, sorted by label. Raises `ValueError` where members and labels don't fit together."""
    shots = dict.fromkeys(labels, 0)
    for member in members:
        if member not in label_of or label_of[member] not in shots:
            raise ValueError(f"the example {member} is not stored, or its label is not one of the version's")
        shots[label_of[member]] += 1
    if not shots or list(shots) != sorted(shots) or len(shots) != len(labels) or not all(shots.values()):
        raise ValueError("a version's labels must be sorted, distinct, and each have an example")
    return shots
