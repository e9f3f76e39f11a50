"""Versions keep the trace of their inner loop: the support set's loss before each step and at the end.

Revision: 0002, after 0001.
"""

from typing import Literal

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    column = sa.Column("adaptation", sa.JSON(none_as_null=True))
    with op.batch_alter_table("versions", recreate=_recreate()) as table:
        if _is_sqlite():
            # The state stays the last column, so that the others are read without its pages.
            table.add_column(column, insert_after="held_out")
        else:
            table.add_column(column)


def downgrade() -> None:
    with op.batch_alter_table("versions", recreate=_recreate()) as table:
        table.drop_column("adaptation")


def _is_sqlite() -> bool:
    return op.get_context().dialect.name == "sqlite"


def _recreate() -> Literal["always", "never"]:
    return "always" if _is_sqlite() else "never"
