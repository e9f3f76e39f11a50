"""Runs the schema's migrations from code: no alembic.ini, nothing outside of the package."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from app.registry.errors import DatabaseTooNew
from app.registry.session import Database

FOLDER = Path(__file__).parent / "migrations"


def upgrade(database: Database, revision: str = "head") -> None:
    """Bring the schema up to `revision`, all of it or nothing. Raises `DatabaseTooNew`."""
    with database.migration() as connection:
        config = _config(connection)
        _require_known(connection, config)
        command.upgrade(config, revision)


def downgrade(database: Database, revision: str) -> None:
    """Take the schema back to `revision` ("base" removes it, and the data with it)."""
    with database.migration() as connection:
        config = _config(connection)
        _require_known(connection, config)
        command.downgrade(config, revision)


def current_revision(connection: Connection) -> str | None:
    """The revision that a database is at; `None` before the first migration."""
    return MigrationContext.configure(connection).get_current_revision()


def _config(connection: Connection) -> Config:
    config = Config()
    # "%" begins an interpolation in this format.
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _require_known(connection: Connection, config: Config) -> None:
    current = current_revision(connection)
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if current is not None and current not in known:
        raise DatabaseTooNew(current)
