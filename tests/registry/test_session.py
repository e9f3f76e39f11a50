"""How connections are set up."""

import sys
from pathlib import Path

import pytest
from sqlalchemy import text

from app.registry.errors import DatabaseCorrupt
from app.registry.session import Database, linked_sqlite, sqlite_driver


def _pragma(database: Database, name: str) -> object:
    with database.read() as session:
        return session.execute(text(f"PRAGMA {name}")).scalar_one()


@pytest.fixture
def database(tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'a' / 'b'}/imprint.sqlite", busy_timeout_s=1.5)
    yield database
    database.close()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("journal_mode", "wal"),
        ("synchronous", 2),
        ("foreign_keys", 1),
        ("busy_timeout", 1500),
        ("mmap_size", 0),
    ],
)
def test_every_connection_is_durable_and_strict(database, name, value):
    assert _pragma(database, name) == value


def test_foreign_keys_are_on_again_after_a_migration(database):
    with database.migration() as connection:
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar_one() == 0
    assert _pragma(database, "foreign_keys") == 1


def test_foreign_keys_are_on_again_after_a_migration_that_failed(database):
    def fail():
        with database.migration():
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert _pragma(database, "foreign_keys") == 1


def test_a_migration_that_breaks_a_reference_is_undone(database):
    with database.write() as session:
        session.execute(text("CREATE TABLE parent (id INTEGER PRIMARY KEY)"))
        session.execute(text("CREATE TABLE child (id INTEGER REFERENCES parent (id))"))

    def orphan():
        with database.migration() as connection:
            connection.exec_driver_sql("INSERT INTO child VALUES (1)")

    with pytest.raises(DatabaseCorrupt):
        orphan()
    with database.read() as session:
        assert session.execute(text("SELECT count(*) FROM child")).scalar_one() == 0


def test_a_read_sees_one_moment_while_another_thread_writes(database):
    with database.write() as session:
        session.execute(text("CREATE TABLE t (n INTEGER)"))
    with database.read() as reader:
        assert reader.execute(text("SELECT count(*) FROM t")).scalar_one() == 0
        with database.write() as writer:
            writer.execute(text("INSERT INTO t VALUES (1)"))
        assert reader.execute(text("SELECT count(*) FROM t")).scalar_one() == 0
    with database.read() as reader:
        assert reader.execute(text("SELECT count(*) FROM t")).scalar_one() == 1


def test_a_write_that_raises_is_rolled_back(database):
    with database.write() as session:
        session.execute(text("CREATE TABLE t (n INTEGER)"))

    def fail():
        with database.write() as session:
            session.execute(text("INSERT INTO t VALUES (1)"))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with database.read() as session:
        assert session.execute(text("SELECT count(*) FROM t")).scalar_one() == 0


def test_a_database_in_memory_is_refused():
    for url in ("sqlite://", "sqlite:///:memory:"):
        with pytest.raises(ValueError, match="file"):
            Database(url, busy_timeout_s=1.0)


def test_the_linked_library_is_named_and_judged(monkeypatch):
    version, safe = linked_sqlite()
    assert version == sqlite_driver().sqlite_version
    assert safe is (sqlite_driver().sqlite_version_info >= (3, 51, 3))
    monkeypatch.setattr(sqlite_driver(), "sqlite_version_info", (3, 51, 2))
    assert linked_sqlite()[1] is False


def test_pythons_own_driver_serves_where_the_bundled_one_is_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pysqlite3.dbapi2", None)
    assert sqlite_driver().__name__ == "sqlite3.dbapi2"
    database = Database(f"sqlite:///{Path(tmp_path)}/imprint.sqlite", busy_timeout_s=1.0)
    assert _pragma(database, "journal_mode") == "wal"
    database.close()
