"""Tasks, versions, examples, predictions, idempotency keys.

Revision: 0001, the first.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
OBJECT = sa.JSON(none_as_null=True)


def upgrade() -> None:
    _create_tasks()
    _create_versions()
    _create_examples()
    _create_version_examples()
    _create_predictions()
    _create_idempotency_keys()


def downgrade() -> None:
    for table in (
        "idempotency_keys",
        "predictions",
        "version_examples",
        "small_blobs",
        "examples",
        "versions",
        "task_labels",
        "tasks",
    ):
        op.drop_table(table)


def _create_tasks() -> None:
    op.create_table(
        "tasks",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String()),
        sa.Column("backbone", sa.String(), nullable=False),
        sa.Column("modality", sa.String(), nullable=False),
        sa.Column("learner_requested", sa.String(), nullable=False),
        sa.Column("learner_settings_requested", OBJECT, nullable=False),
        sa.Column("store_inputs", sa.Boolean(), nullable=False),
        sa.Column("active_version", sa.Integer(), nullable=False),
        sa.Column("next_version", sa.Integer(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.Column("deleted_at", TIME),
        sa.PrimaryKeyConstraint("id", name="pk_tasks"),
    )
    live = sa.text("deleted_at IS NULL")
    op.create_index("uq_tasks_live_name", "tasks", ["name"], unique=True, sqlite_where=live, postgresql_where=live)
    op.create_table(
        "task_labels",
        sa.Column("label", sa.String(), nullable=False),
        sa.Column("task_id", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name="fk_task_labels_task_id"),
        sa.PrimaryKeyConstraint("label", "task_id", name="pk_task_labels"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_task_labels_task_id", "task_labels", ["task_id"])


def _create_versions() -> None:
    op.create_table(
        "versions",
        sa.Column("task_id", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("parent", sa.Integer()),
        sa.Column("change", sa.String(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("backbone_sha256", sa.String(), nullable=False),
        sa.Column("learner", sa.String(), nullable=False),
        sa.Column("learner_settings", OBJECT, nullable=False),
        sa.Column("shots", OBJECT, nullable=False),
        sa.Column("dim", sa.Integer(), nullable=False),
        sa.Column("selection", OBJECT),
        sa.Column("held_out", OBJECT),
        sa.Column("warnings", OBJECT, nullable=False),
        sa.Column("timing", OBJECT, nullable=False),
        sa.Column("state_size_bytes", sa.Integer(), nullable=False),
        sa.Column("state_blob", sa.String()),
        sa.Column("state", sa.LargeBinary()),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name="fk_versions_task_id"),
        sa.ForeignKeyConstraint(
            ["task_id", "parent"], ["versions.task_id", "versions.number"], name="fk_versions_task_id_parent"
        ),
        sa.PrimaryKeyConstraint("task_id", "number", name="pk_versions"),
    )


def _create_examples() -> None:
    op.create_table(
        "examples",
        sa.Column("task_id", sa.String(), nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("label", sa.String(), nullable=False),
        sa.Column("content_sha256", sa.String(), nullable=False),
        sa.Column("media_type", sa.String(), nullable=False),
        sa.Column("size_bytes", sa.Integer(), nullable=False),
        sa.Column("input_blob", sa.String()),
        sa.Column("truncated", sa.Boolean(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("features", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name="fk_examples_task_id"),
        sa.PrimaryKeyConstraint("task_id", "id", name="pk_examples"),
    )
    op.create_table(
        "small_blobs",
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name="pk_small_blobs"),
    )


def _create_version_examples() -> None:
    op.create_table(
        "version_examples",
        sa.Column("task_id", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("example_id", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["task_id", "version"],
            ["versions.task_id", "versions.number"],
            name="fk_version_examples_task_id_version",
        ),
        sa.ForeignKeyConstraint(
            ["task_id", "example_id"],
            ["examples.task_id", "examples.id"],
            name="fk_version_examples_task_id_example_id",
        ),
        sa.PrimaryKeyConstraint("task_id", "version", "example_id", name="pk_version_examples"),
        sqlite_with_rowid=False,
    )


def _create_predictions() -> None:
    op.create_table(
        "predictions",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("task_id", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("input_sha256", sa.String(), nullable=False),
        sa.Column("media_type", sa.String(), nullable=False),
        sa.Column("input_blob", sa.String()),
        sa.Column("result", OBJECT, nullable=False),
        sa.ForeignKeyConstraint(
            ["task_id", "version"],
            ["versions.task_id", "versions.number"],
            name="fk_predictions_task_id_version",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_predictions"),
    )
    op.create_index("ix_predictions_task_id_id", "predictions", ["task_id", "id"])


def _create_idempotency_keys() -> None:
    op.create_table(
        "idempotency_keys",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("scope", sa.String(), nullable=False),
        sa.Column("body_sha256", sa.String(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("status", sa.Integer()),
        sa.Column("headers", OBJECT),
        sa.Column("body", sa.LargeBinary()),
        sa.PrimaryKeyConstraint("key", "scope", name="pk_idempotency_keys"),
    )
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"])
