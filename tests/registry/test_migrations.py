"""The schema: migrated from code, up and down, and the same as the tables."""

import json
import runpy
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_mock_engine, inspect, text
from sqlalchemy.exc import IntegrityError

from app.registry.errors import DatabaseTooNew, TaskDeleted
from app.registry.migrate import FOLDER, current_revision, downgrade, newest_revision, upgrade
from app.registry.repository import Registry
from app.registry.session import Database
from app.registry.tables import Base

HERE = Path(__file__).parent
REVISIONS = [script.revision for script in ScriptDirectory(str(FOLDER)).walk_revisions()][::-1]


@pytest.fixture
def database(tmp_path):
    database = Database(f"sqlite:///{tmp_path}/imprint.sqlite", busy_timeout_s=1.0)
    yield database
    database.close()


def _table_names(database: Database) -> set[str]:
    with database.engine.connect() as connection:
        return set(inspect(connection).get_table_names()) - {"alembic_version"}


def test_the_migrated_schema_is_the_tables(database):
    upgrade(database)
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
        migrated = {
            name: sql.rstrip().endswith("WITHOUT ROWID")
            for name, sql in connection.execute(text("SELECT name, sql FROM sqlite_master WHERE type = 'table'"))
        }
    for table in Base.metadata.tables.values():
        assert migrated[table.name] is not table.dialect_options["sqlite"]["with_rowid"], table.name


def test_the_migrations_go_down_to_nothing_and_up_again(database):
    upgrade(database)
    assert _table_names(database) == set(Base.metadata.tables)
    downgrade(database, "base")
    assert _table_names(database) == set()
    upgrade(database)
    assert _table_names(database) == set(Base.metadata.tables)


@pytest.mark.parametrize("revision", REVISIONS)
def test_each_migration_goes_up_down_and_up(database, revision):
    upgrade(database, revision)
    downgrade(database, "-1")
    upgrade(database, revision)
    with database.engine.connect() as connection:
        assert current_revision(connection) == revision


def test_migrating_twice_changes_nothing_and_keeps_what_is_stored(open_registry, make):
    first = open_registry()
    task = first.create_task(make.task(), make.version(*make.pair()))
    first.migrate()
    assert open_registry().task(task.id) == task


def test_a_database_of_a_later_release_is_refused_and_left_as_it_is(open_registry, make):
    registry = open_registry()
    registry.create_task(make.task(), make.version(*make.pair()))
    with registry._database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(DatabaseTooNew, match=r"9999.*later release"):
        registry.migrate()
    with registry._database.engine.connect() as connection:
        assert current_revision(connection) == "9999"
    assert len(registry.tasks().items) == 1


def test_the_newest_revision_is_the_head_of_the_migrations():
    assert newest_revision() == ScriptDirectory(str(FOLDER)).get_current_head() == REVISIONS[-1]


def test_a_migration_that_fails_half_way_leaves_the_schema_as_it_was(database, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("after some tables")

    with monkeypatch.context() as patch:
        patch.setattr("alembic.op.create_index", fail)
        with pytest.raises(RuntimeError, match="after some tables"):
            upgrade(database)
    assert _table_names(database) == set()
    upgrade(database)
    assert _table_names(database) == set(Base.metadata.tables)


def test_two_processes_that_start_at_once_migrate_once(tmp_path):
    databases = [Database(f"sqlite:///{tmp_path}/imprint.sqlite", busy_timeout_s=10.0) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(upgrade, databases))
    assert _table_names(databases[0]) == set(Base.metadata.tables)
    for database in databases:
        database.close()


def test_the_schema_is_valid_for_postgresql():
    statements: list[str] = []
    engine = create_mock_engine(
        "postgresql://", lambda sql, *args, **kwargs: statements.append(str(sql.compile(dialect=engine.dialect)))
    )
    Base.metadata.create_all(engine, checkfirst=False)
    created = "\n".join(statements)
    assert "ROWID" not in created
    assert "WHERE deleted_at IS NULL" in created


@pytest.mark.parametrize("path", sorted((HERE / "releases").glob("*.sqlite")), ids=lambda path: path.stem)
def test_a_database_of_each_release_migrates_and_serves_every_stored_thing(tmp_path, path):
    shutil.copy(path, tmp_path / "imprint.sqlite")
    script = runpy.run_path(str(HERE / "make_release_database.py"))
    registry = Registry(f"sqlite:///{tmp_path}/imprint.sqlite", tmp_path, clock=lambda: script["MADE_AT"])
    registry.migrate()
    then = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert _as_then(script["dump"](registry), then) == then
    with registry._database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
        deleted = connection.scalar(text("SELECT id FROM tasks WHERE deleted_at IS NOT NULL"))
    with pytest.raises(TaskDeleted):
        registry.task(deleted)
    assert registry.idempotency.begin("a-key", "POST /v1/tasks", "1" * 64).status == 201
    registry.close()


def _as_then(found: object, then: object) -> object:
    """What is found, without what the release did not know: that must be unset."""
    if isinstance(found, list) and isinstance(then, list):
        return [_as_then(one, other) for one, other in zip(found, then, strict=True)]
    if not isinstance(found, dict) or not isinstance(then, dict):
        return found
    added = {name: value for name, value in found.items() if name not in then}
    assert set(added.values()) <= {None}, "a later release found something in what an earlier one stored"
    return {name: _as_then(value, then[name]) for name, value in found.items() if name not in added}


def test_the_state_stays_the_last_column_so_that_others_are_read_without_its_pages(database):
    upgrade(database)
    with database.engine.connect() as connection:
        columns = [one["name"] for one in inspect(connection).get_columns("versions")]
    assert columns[-1] == "state"


def test_a_migrated_database_still_refuses_rows_that_point_nowhere(open_registry, make):
    registry = open_registry()
    task = registry.create_task(make.task(), make.version(*make.pair()))
    orphan = make.version(*make.pair(), parent=99, change="examples-added")
    with pytest.raises(IntegrityError):
        registry.add_version(task.id, orphan, None)
    assert len(registry.versions(task.id).items) == 1


def test_there_is_a_database_of_the_first_release():
    assert (HERE / "releases/0.1.0.sqlite").is_file()
