"""Runs the schema's migrations from code: no alembic.ini, nothing outside of the package.

Alembic is imported where there is something to migrate: a start on a database that is up to date does without.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, inspect, text

from app.registry.errors import DatabaseTooNew
from app.registry.session import Database

if TYPE_CHECKING:
    from alembic.config import Config

FOLDER = Path(__file__).parent / "migrations"
REVISION_TABLE: Final = "alembic_version"


def upgrade(database: Database, revision: str = "head") -> None:
    """Bring the schema up to `revision`, all of it or nothing. Raises `DatabaseTooNew`."""
    if revision == "head" and _is_up_to_date(database):
        return
    from alembic import command  # noqa: PLC0415

    with database.migration() as connection:
        config = _config(connection)
        _require_known(connection, config)
        command.upgrade(config, revision)


def downgrade(database: Database, revision: str) -> None:
    """Take the schema back to `revision` ("base" removes it, and the data with it)."""
    from alembic import command  # noqa: PLC0415

    with database.migration() as connection:
        config = _config(connection)
        _require_known(connection, config)
        command.downgrade(config, revision)


def current_revision(connection: Connection) -> str | None:
    """The revision that a database is at; `None` before the first migration."""
    if not inspect(connection).has_table(REVISION_TABLE):
        return None
    found: str | None = connection.scalar(text(f"SELECT version_num FROM {REVISION_TABLE}"))  # noqa: S608 - a constant
    return found


def newest_revision() -> str:
    """The revision of this release: files of migrations are named by number, then by what they do."""
    return max(path.name.partition("_")[0] for path in (FOLDER / "versions").glob("[0-9]*_*.py"))


def _is_up_to_date(database: Database) -> bool:
    with database.read() as session:
        return current_revision(session.connection()) == newest_revision()


def _config(connection: Connection) -> "Config":
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    # "%" begins an interpolation in this format.
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _require_known(connection: Connection, config: "Config") -> None:
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    current = current_revision(connection)
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if current is not None and current not in known:
        raise DatabaseTooNew(current)
