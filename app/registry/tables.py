"""The database's tables. A change here needs a migration: a test compares the two."""

from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import JSON, DateTime, Dialect, ForeignKey, ForeignKeyConstraint, Index, LargeBinary, MetaData, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

Object = dict[str, Any]


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC; aware in Python on every database, also where the column keeps no zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse a naive time: it would be read back as another moment."""
        del dialect
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a stored time needs a time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Say UTC where the database did not."""
        del dialect
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """Names every constraint, so that migrations can speak of it."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: UtcDateTime,
        bytes: LargeBinary,
        Object: JSON(none_as_null=True),
        list[Any]: JSON(none_as_null=True),
    }


class TaskTable(Base):
    """A classifier: what was asked for, and which version answers."""

    __tablename__ = "tasks"
    __table_args__ = (
        # Only live tasks hold their name.
        Index(
            "uq_tasks_live_name",
            "name",
            unique=True,
            sqlite_where=text("deleted_at IS NULL"),
            postgresql_where=text("deleted_at IS NULL"),
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str | None]
    backbone: Mapped[str]
    modality: Mapped[str]
    learner_requested: Mapped[str]
    learner_settings_requested: Mapped[Object]
    store_inputs: Mapped[bool]
    active_version: Mapped[int]
    next_version: Mapped[int]
    revision: Mapped[int]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    deleted_at: Mapped[datetime | None]


class VersionTable(Base):
    """One immutable state of a task. `shots` maps each label to its number of examples, sorted."""

    __tablename__ = "versions"
    __table_args__ = (ForeignKeyConstraint(["task_id", "parent"], ["versions.task_id", "versions.number"]),)

    task_id: Mapped[str] = mapped_column(ForeignKey("tasks.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    parent: Mapped[int | None]
    change: Mapped[str]
    created_at: Mapped[datetime]
    backbone_sha256: Mapped[str]
    learner: Mapped[str]
    learner_settings: Mapped[Object]
    shots: Mapped[Object]
    dim: Mapped[int]
    selection: Mapped[Object | None]
    held_out: Mapped[Object | None]
    adaptation: Mapped[Object | None]
    warnings: Mapped[list[Any]]
    timing: Mapped[Object]
    state_size_bytes: Mapped[int]
    state_blob: Mapped[str | None]
    # Last, so that SQLite reads the other columns without touching its pages.
    state: Mapped[bytes | None] = mapped_column(deferred=True, deferred_raiseload=True)


class TaskLabelTable(Base):
    """The labels of each task's active version: finds tasks by label on any database."""

    __tablename__ = "task_labels"
    __table_args__ = ({"sqlite_with_rowid": False},)

    label: Mapped[str] = mapped_column(primary_key=True)
    task_id: Mapped[str] = mapped_column(ForeignKey("tasks.id"), primary_key=True, index=True)


class ExampleTable(Base):
    """A labelled input of a task, kept while any version may need it. Its id names label and content."""

    __tablename__ = "examples"

    task_id: Mapped[str] = mapped_column(ForeignKey("tasks.id"), primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    label: Mapped[str]
    content_sha256: Mapped[str]
    media_type: Mapped[str]
    size_bytes: Mapped[int]
    input_blob: Mapped[str | None]
    truncated: Mapped[bool]
    created_at: Mapped[datetime]
    features: Mapped[bytes] = mapped_column(deferred=True, deferred_raiseload=True)


class VersionExampleTable(Base):
    """Which examples a version was fitted on: a set, without order."""

    __tablename__ = "version_examples"
    __table_args__ = (
        ForeignKeyConstraint(["task_id", "version"], ["versions.task_id", "versions.number"]),
        ForeignKeyConstraint(["task_id", "example_id"], ["examples.task_id", "examples.id"]),
        {"sqlite_with_rowid": False},
    )

    task_id: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    example_id: Mapped[str] = mapped_column(primary_key=True)


class SmallBlobTable(Base):
    """Content of a few kilobytes, under its SHA-256: a row costs less than a file and its fsync."""

    __tablename__ = "small_blobs"

    sha256: Mapped[str] = mapped_column(primary_key=True)
    content: Mapped[bytes]


class PredictionTable(Base):
    """A recorded prediction."""

    __tablename__ = "predictions"
    __table_args__ = (
        ForeignKeyConstraint(["task_id", "version"], ["versions.task_id", "versions.number"]),
        Index(None, "task_id", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    task_id: Mapped[str]
    version: Mapped[int]
    created_at: Mapped[datetime]
    input_sha256: Mapped[str]
    media_type: Mapped[str]
    input_blob: Mapped[str | None]
    result: Mapped[Object]


class IdempotencyKeyTable(Base):
    """A request that must not run twice, and its answer once there is one (`status` is then set)."""

    __tablename__ = "idempotency_keys"

    key: Mapped[str] = mapped_column(primary_key=True)
    scope: Mapped[str] = mapped_column(primary_key=True)
    body_sha256: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(index=True)
    status: Mapped[int | None]
    headers: Mapped[Object | None]
    body: Mapped[bytes | None]
