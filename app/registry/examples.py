"""Reads of a version's examples, inside a transaction that the caller holds."""

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from app.registry.paging import cut_page, decode_cursor
from app.registry.records import ExampleFeatures, ExampleRecord, Page
from app.registry.tables import ExampleTable, VersionExampleTable
from app.registry.versions import get_version


def _members(task_id: str, version: int) -> ColumnElement[bool]:
    return (
        (VersionExampleTable.task_id == task_id)
        & (VersionExampleTable.version == version)
        & (ExampleTable.task_id == VersionExampleTable.task_id)
        & (ExampleTable.id == VersionExampleTable.example_id)
    )


def list_examples(
    session: Session, task_id: str, version: int, cursor: str | None, limit: int, label: str | None
) -> Page[ExampleRecord]:
    """Read a page of a version's examples, by id. Raises `BadCursor` and as `get_version`."""
    get_version(session, task_id, version)
    statement = select(ExampleTable).where(_members(task_id, version))
    if cursor is not None:
        statement = statement.where(VersionExampleTable.example_id > decode_cursor("examples", cursor))
    if label is not None:
        statement = statement.where(ExampleTable.label == label)
    rows = session.scalars(statement.order_by(VersionExampleTable.example_id).limit(limit + 1))
    return cut_page("examples", [_record(row) for row in rows], limit, lambda record: record.id)


def get_features(session: Session, task_id: str, version: int) -> list[ExampleFeatures]:
    """Read all of a version's examples with their embeddings, sorted by content hash and label.

    Raises: as `get_version`.
    """
    get_version(session, task_id, version)
    columns = (
        ExampleTable.id,
        ExampleTable.label,
        ExampleTable.content_sha256,
        ExampleTable.features,
        ExampleTable.media_type,
        ExampleTable.truncated,
        ExampleTable.size_bytes,
        ExampleTable.input_blob,
    )
    rows = session.execute(select(*columns).where(_members(task_id, version)))
    found = [ExampleFeatures(*row) for row in rows]
    # Sorted here, by code point: a database would sort labels by its own collation.
    return sorted(found, key=lambda example: (example.content_sha256, example.label))


def _record(row: ExampleTable) -> ExampleRecord:
    return ExampleRecord(
        id=row.id,
        label=row.label,
        content_sha256=row.content_sha256,
        media_type=row.media_type,
        size_bytes=row.size_bytes,
        input_blob=row.input_blob,
        truncated=row.truncated,
        created_at=row.created_at,
    )
