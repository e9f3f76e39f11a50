"""Connections and transactions. All that is particular to one database product is here."""

import importlib
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from json import dumps
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, final

from sqlalchemy import Connection, Engine, create_engine, event, literal, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from app.registry.errors import DatabaseCorrupt, DatabaseDown, DatabaseLocked, DiskFull
from app.registry.tables import Base

FIRST_SAFE_SQLITE = (3, 51, 3)
"""Before it, a WAL reset that races a checkpoint can corrupt the file."""

RETRY_AFTER_S = 1.0
POOL_CONNECTIONS = 16
POOL_OVERFLOW = 32
MIGRATION_LOCK = 0x1D9817
"""Any number, the same in each process: PostgreSQL lets one holder migrate at a time."""

Mode = Literal["read", "write", "migrate"]
BEGIN: Mapping[Mode, tuple[str, ...]] = {
    "read": ("BEGIN",),
    # A write that takes its lock late can fail half-way with SQLITE_BUSY that no timeout waits for.
    "write": ("BEGIN IMMEDIATE",),
    # A migration that rebuilds a table drops the old one; enforced foreign keys would empty its children.
    "migrate": ("PRAGMA foreign_keys=OFF", "BEGIN IMMEDIATE"),
}

SQLITE_BUSY, SQLITE_LOCKED, SQLITE_CORRUPT, SQLITE_FULL, SQLITE_NOTADB = 5, 6, 11, 13, 26
SQLITE_FAULTS: Mapping[int, type[DiskFull | DatabaseCorrupt]] = {
    SQLITE_FULL: DiskFull,
    SQLITE_CORRUPT: DatabaseCorrupt,
    SQLITE_NOTADB: DatabaseCorrupt,
}
POSTGRES_LOCKED = {"55P03", "40001", "40P01"}
POSTGRES_DISK_FULL = "53100"


def sqlite_driver() -> ModuleType:
    """The SQLite driver with the newer library: `pysqlite3` bundles a fixed one, Python links the system's."""
    try:
        bundled = importlib.import_module("pysqlite3.dbapi2")
    except ImportError:
        return sqlite3.dbapi2
    return bundled if bundled.sqlite_version_info >= sqlite3.sqlite_version_info else sqlite3.dbapi2


def linked_sqlite() -> tuple[str, bool]:
    """The version of SQLite in use, and whether it is free of the WAL-reset bug (3.7.0 to 3.51.2)."""
    driver = sqlite_driver()
    return driver.sqlite_version, driver.sqlite_version_info >= FIRST_SAFE_SQLITE


@final
class Database:
    """A pool of connections and the transactions on it. Thread-safe.

    On SQLite readers run beside the one writer (WAL); writers of this process queue at a lock, because
    SQLite's own waiting is a poll that starves some of them. Raises what `translated` says.
    """

    def __init__(self, url: str, *, busy_timeout_s: float) -> None:
        parsed = make_url(url)
        self._is_sqlite = parsed.get_backend_name() == "sqlite"
        self._busy_timeout_s = busy_timeout_s
        self._write_lock = threading.Lock()
        self.engine = _sqlite_engine(parsed, busy_timeout_s) if self._is_sqlite else _server_engine(parsed)
        # Made once: one made for each transaction costs a fifth of a short one.
        self._engines: Mapping[Mode, Engine] = {mode: self.engine.execution_options(begin_mode=mode) for mode in BEGIN}

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A read transaction: everything read in it is of one moment (SQLite) or one statement (PostgreSQL)."""
        with translated(), self._session("read") as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A write transaction: committed when the block ends, rolled back when it raises."""
        with self._writer(), translated(), self._session("write") as session:
            session.connection()
            yield session
            session.commit()

    @contextmanager
    def migration(self) -> Iterator[Connection]:
        """A transaction for changes of the schema; other processes that start wait for it."""
        with self._writer(), translated(), self._engines["migrate"].connect() as connection:
            try:
                with connection.begin():
                    if not self._is_sqlite:
                        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
                    yield connection
                    if self._is_sqlite and connection.exec_driver_sql("PRAGMA foreign_key_check").first():
                        raise DatabaseCorrupt
            finally:
                if self._is_sqlite:
                    connection.invalidate()  # it has foreign_keys=OFF: not back to the pool

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()

    def _session(self, mode: Mode) -> Session:
        return Session(self._engines[mode], expire_on_commit=False, autoflush=False)

    @contextmanager
    def _writer(self) -> Iterator[None]:
        if not self._is_sqlite:
            yield
            return
        if not self._write_lock.acquire(timeout=self._busy_timeout_s):
            raise DatabaseLocked(retry_after_s=RETRY_AFTER_S)
        try:
            yield
        finally:
            self._write_lock.release()


@contextmanager
def translated() -> Iterator[None]:
    """Give the database's failures their names.

    Raises: `DatabaseLocked`, `DiskFull`, `DatabaseCorrupt`, and `DatabaseDown` for every other trouble of the
    database's own. Errors that are ours (an SQL mistake, a broken constraint) pass through as they are.
    """
    try:
        yield
    except PoolTimeout as error:  # every connection of the pool is taken
        raise DatabaseLocked(retry_after_s=RETRY_AFTER_S) from error
    except DBAPIError as error:
        named = _named(error)
        if named is None:
            raise
        raise named from error


def _named(error: DBAPIError) -> DatabaseLocked | DiskFull | DatabaseCorrupt | DatabaseDown | None:
    """The registry's error for a driver's, or `None` where it is no trouble of the database's own."""
    state = getattr(error.orig, "sqlstate", None)
    code = (getattr(error.orig, "sqlite_errorcode", None) or 0) & 0xFF  # the low byte: without the extended part
    if code in {SQLITE_BUSY, SQLITE_LOCKED} or state in POSTGRES_LOCKED:
        return DatabaseLocked(retry_after_s=RETRY_AFTER_S)
    if code in SQLITE_FAULTS:
        return SQLITE_FAULTS[code]()
    if state == POSTGRES_DISK_FULL:
        return DiskFull()
    return DatabaseDown() if isinstance(error, OperationalError | InterfaceError) else None


def insert_missing(session: Session, table: type[Base], rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert the rows whose primary key is free, leave the others."""
    if rows:
        session.connection().execute(_insert_or_nothing(session, table), list(rows))


def insert_if_missing(session: Session, table: type[Base], row: Mapping[str, Any]) -> bool:
    """Insert one row; returns whether it went in, which is false where its primary key is taken."""
    # Asked by RETURNING: the count of rows is not known to every driver.
    statement = _insert_or_nothing(session, table).values(**row).returning(literal(1))
    return session.connection().scalar(statement) is not None


def _insert_or_nothing(session: Session, table: type[Base]) -> sqlite.Insert | postgresql.Insert:
    if session.get_bind().dialect.name == "sqlite":
        return sqlite.insert(table).on_conflict_do_nothing()
    return postgresql.insert(table).on_conflict_do_nothing()


def _json(value: object) -> str:
    return dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _server_engine(url: URL) -> Engine:
    return create_engine(
        url, pool_size=POOL_CONNECTIONS, max_overflow=POOL_OVERFLOW, pool_pre_ping=True, json_serializer=_json
    )


def _sqlite_engine(url: URL, busy_timeout_s: float) -> Engine:
    if not url.database or url.database == ":memory:":
        raise ValueError("the registry needs a database file: one in memory is another one in each thread")
    Path(url.database).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    engine = create_engine(
        url,
        module=sqlite_driver(),
        pool_size=POOL_CONNECTIONS,
        max_overflow=POOL_OVERFLOW,
        json_serializer=_json,
    )
    event.listen(engine, "connect", partial(_configure, busy_timeout_s))
    event.listen(engine, "begin", _begin)
    return engine


def _configure(busy_timeout_s: float, connection: Any, _record: object) -> None:
    """Set up one fresh SQLite connection. The driver must not open transactions: `_begin` does."""
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={int(busy_timeout_s * 1000)}")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin(connection: Connection) -> None:
    mode: Mode = connection.get_execution_options().get("begin_mode", "read")
    for statement in BEGIN[mode]:
        connection.exec_driver_sql(statement)
