"""Requests that must not run twice: their keys, and their answers for a day."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import final

from sqlalchemy import delete, select, update

from app.registry.errors import KeyInFlight, KeyReused
from app.registry.records import Replay
from app.registry.session import Database, insert_if_missing
from app.registry.tables import IdempotencyKeyTable

EXPIRY = timedelta(hours=24)

ABANDONED_AFTER = timedelta(minutes=10)
"""A key in flight for longer belongs to a process that died: no request lives so long."""


@final
class IdempotencyKeys:
    """`begin` before the work, then `finish` with the answer, or `forget` where it may be tried again.

    `scope` is the method and path (and, later, whose key it is): one key in two scopes is two keys.
    """

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock

    def begin(self, key: str, scope: str, body_sha256: str) -> Replay | None:
        """Take the key, or return the answer that is stored under it. Removes expired keys.

        Raises: `KeyInFlight` while the first request runs, `KeyReused` for another body under the key.
        """
        now = self._clock()
        table = IdempotencyKeyTable
        abandoned = table.status.is_(None) & (table.created_at < now - ABANDONED_AFTER)
        row = {"key": key, "scope": scope, "body_sha256": body_sha256, "created_at": now}
        with self._database.write() as session:
            session.execute(delete(table).where((table.created_at < now - EXPIRY) | abandoned))
            if insert_if_missing(session, table, row):
                return None
            stored = session.scalars(select(table).where(table.key == key, table.scope == scope)).one()
            if stored.body_sha256 != body_sha256:
                raise KeyReused
            if stored.status is None:
                raise KeyInFlight
            return Replay(status=stored.status, headers=stored.headers or {}, body=stored.body or b"")

    def finish(self, key: str, scope: str, replay: Replay) -> None:
        """Store the answer. Nothing happens where the key is not taken any more."""
        table = IdempotencyKeyTable
        answer = {"status": replay.status, "headers": dict(replay.headers), "body": replay.body}
        with self._database.write() as session:
            session.execute(
                update(table).where(table.key == key, table.scope == scope, table.status.is_(None)).values(**answer)
            )

    def forget_unfinished(self) -> None:
        """Forget the keys of requests that a former process never finished. For start-up, before any request."""
        with self._database.write() as session:
            session.execute(delete(IdempotencyKeyTable).where(IdempotencyKeyTable.status.is_(None)))

    def forget(self, key: str, scope: str) -> None:
        """Free a key whose request failed in a way that a retry may mend. An answer already stored stays."""
        table = IdempotencyKeyTable
        with self._database.write() as session:
            session.execute(delete(table).where(table.key == key, table.scope == scope, table.status.is_(None)))
