"""One server a data folder: two would not see each other's changes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from app.core.errors import Conflict


class DataFolderInUse(Conflict):
    """Another server holds the data folder."""

    code = "data-folder-in-use"
    title = "Another server uses the data folder"


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Hold the data folder as long as the server runs; the system lets go of it when the process dies.

    Raises: `DataFolderInUse`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        message = f"Another server uses the data folder {folder}; stop it or set IMPRINT_DATA_DIR."
        raise DataFolderInUse(message) from error
    try:
        yield
    finally:
        lock.release()
