"""Every way the registry can fail that has a name."""

from app.core.errors import Conflict, Gone, ImprintError, Invalid, NotFound, StorageFull, Unavailable


class TaskNotFound(NotFound):
    """No task has this id."""

    code = "task-not-found"
    title = "No such task"

    def __init__(self, task_id: str) -> None:
        super().__init__(f"There is no task {task_id!r}.")


class TaskDeleted(Gone):
    """The task was deleted."""

    code = "task-deleted"
    title = "The task was deleted"

    def __init__(self, task_id: str) -> None:
        super().__init__(f"The task {task_id!r} was deleted.")


class VersionNotFound(NotFound):
    """The task has no version of this number."""

    code = "version-not-found"
    title = "No such version"

    def __init__(self, task_id: str, number: int) -> None:
        super().__init__(f"The task {task_id!r} has no version {number}; GET its versions to see which there are.")


class PredictionNotFound(NotFound):
    """No prediction was recorded under this id."""

    code = "prediction-not-found"
    title = "No such prediction"

    def __init__(self, prediction_id: str) -> None:
        super().__init__(f"There is no recorded prediction {prediction_id!r}.")


class NameTaken(Conflict):
    """Another live task has the name."""

    code = "name-taken"
    title = "The name is taken"

    def __init__(self, name: str) -> None:
        super().__init__(f"Another task is called {name!r}; choose another name, or delete that task.", pointer="/name")


class RevisionConflict(Conflict):
    """The task was changed by someone else since it was read."""

    code = "revision-conflict"
    title = "The task changed meanwhile"

    def __init__(self, task_id: str) -> None:
        super().__init__(f"The task {task_id!r} was changed by another request meanwhile; read it and try again.")


class BadCursor(Invalid):
    """A page's cursor that this server did not give out for this list."""

    code = "bad-cursor"
    title = "The cursor is not valid"

    def __init__(self) -> None:
        super().__init__(
            "The cursor is not one that this list returned; start again without a cursor.", pointer="/query/cursor"
        )


class KeyInFlight(Conflict):
    """The first request with this idempotency key is still being answered."""

    code = "idempotency-key-in-flight"
    title = "The first request is still running"

    def __init__(self) -> None:
        super().__init__(
            "A request with this Idempotency-Key is still being answered; try again shortly.", retry_after_s=1.0
        )


class KeyReused(Invalid):
    """An idempotency key came a second time, with another body."""

    code = "idempotency-key-reused"
    title = "The idempotency key was used for another request"

    def __init__(self) -> None:
        super().__init__("This Idempotency-Key was used with another body; use a new key for a new request.")


class DatabaseLocked(Unavailable):
    """Another process or a long write holds the database."""

    code = "database-locked"
    title = "The database is locked"

    def __init__(self, *, retry_after_s: float) -> None:
        super().__init__("The database is busy with another write; try again shortly.", retry_after_s=retry_after_s)


class DatabaseDown(Unavailable):
    """The database cannot be reached or read."""

    code = "database-down"
    title = "The database cannot be used"

    def __init__(self) -> None:
        super().__init__("The database cannot be used at the moment; the server's log says why.", retry_after_s=5.0)


class DiskFull(StorageFull):
    """No room left; nothing of the request was stored."""

    def __init__(self) -> None:
        super().__init__("The server has no room left to store this; nothing of it was stored.")


class StoredDataCorrupt(ImprintError):
    """What lies in the store is not what was put there."""

    code = "stored-data-corrupt"
    title = "Stored data is damaged"


class BlobMissing(StoredDataCorrupt):
    """A stored row names content that is not there."""

    def __init__(self, sha256: str) -> None:
        super().__init__(f"The stored content {sha256[:12]} is missing; restore the data folder from a backup.")


class BlobCorrupt(StoredDataCorrupt):
    """Content whose bytes no longer have the hash they are stored under."""

    def __init__(self, sha256: str) -> None:
        super().__init__(
            f"The stored content {sha256[:12]} is damaged (its hash has changed); restore it from a backup."
        )


class DatabaseCorrupt(StoredDataCorrupt):
    """The database file is damaged, or is no database."""

    def __init__(self) -> None:
        super().__init__("The database is damaged; restore it from a backup.")


class DatabaseTooNew(ImprintError):
    """The database was written by a later release than this one."""

    code = "database-too-new"
    title = "The database is from a later release"

    def __init__(self, revision: str) -> None:
        super().__init__(
            f"The database has the schema {revision!r}, which this release does not know: a later release wrote it. "
            "Install that release or a later one, or restore a backup that this release made."
        )
