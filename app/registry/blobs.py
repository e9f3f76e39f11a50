"""Content-addressed storage of bytes: what was put is either there whole or not at all."""

import errno
import hashlib
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar, final, runtime_checkable

from app.registry.errors import BlobCorrupt, BlobMissing, DiskFull

SHA256_HEX = re.compile(r"[0-9a-f]{64}")
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
LEFTOVER_AGE_S = 3600.0
SYNC_THREADS = 8

T = TypeVar("T")
R = TypeVar("R")


@runtime_checkable
class BlobStore(Protocol):
    """A place for content under its SHA-256 (hexadecimal). Thread-safe."""

    def put(self, contents: Iterable[bytes]) -> list[str]:
        """Store each content durably; returns the hashes in order. Raises `DiskFull`."""
        ...

    def get(self, sha256: str) -> bytes:
        """Read a content. Raises `BlobMissing`, or `BlobCorrupt` where its hash has changed."""
        ...

    def exists(self, sha256: str) -> bool:
        """Whether the content is stored."""
        ...


def sha256_hex(content: bytes) -> str:
    """The SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


@final
class FolderBlobs:
    """Blobs as files: `<folder>/ab/<sha256>` for a hash that starts with `ab`.

    A file is written under `<folder>/incoming/`, synced, renamed to its place, and the folder synced: after
    a crash a blob is whole or absent. What a crash leaves in `incoming` is removed by `remove_leftovers`.
    A blob that no row names is harmless: the same content will find it there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._incoming = folder / "incoming"
        self._incoming.mkdir(mode=0o700, parents=True, exist_ok=True)

    def put(self, contents: Iterable[bytes]) -> list[str]:
        """Store each content durably; returns the hashes in order. Raises `DiskFull`."""
        with _named_errors():
            stored = _side_by_side(self._put_one, contents)
            _side_by_side(_sync_folder, sorted(set().union(*(folders for _, folders in stored))))
        return [sha256 for sha256, _ in stored]

    def get(self, sha256: str) -> bytes:
        """Read a content. Raises `BlobMissing`, or `BlobCorrupt` where its hash has changed."""
        try:
            content = self._path(sha256).read_bytes()
        except FileNotFoundError as error:
            raise BlobMissing(sha256) from error
        if sha256_hex(content) != sha256:
            raise BlobCorrupt(sha256)
        return content

    def exists(self, sha256: str) -> bool:
        """Whether the content is stored."""
        return self._path(sha256).is_file()

    def remove_leftovers(self, older_than_s: float = LEFTOVER_AGE_S) -> None:
        """Remove what writers that died left behind. Younger files may belong to a living one."""
        oldest = time.time() - older_than_s
        for path in self._incoming.iterdir():
            if path.stat().st_mtime < oldest:
                path.unlink(missing_ok=True)

    def _path(self, sha256: str) -> Path:
        # The hash becomes part of a path: nothing else may.
        if not SHA256_HEX.fullmatch(sha256):
            raise BlobMissing(sha256)
        return self._folder / sha256[:2] / sha256

    def _put_one(self, content: bytes) -> tuple[str, set[Path]]:
        """Store one content; returns its hash and the folders that are still to be synced."""
        sha256 = sha256_hex(content)
        path = self._path(sha256)
        if _size_bytes(path) == len(content):
            # Another writer may have renamed it and not yet synced its folder.
            return sha256, {path.parent}
        folders = {path.parent}
        if not path.parent.is_dir():
            path.parent.mkdir(mode=0o700, exist_ok=True)
            folders.add(self._folder)
        self._write(path, content)
        return sha256, folders

    def _write(self, path: Path, content: bytes) -> None:
        temporary = self._incoming / f"{path.name}.{secrets.token_hex(8)}"
        try:
            with temporary.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _side_by_side(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Do the work of each item, in threads where there are several: a disk syncs many files in the time of one."""
    waiting = list(items)
    if len(waiting) < 2:
        return [work(item) for item in waiting]
    with ThreadPoolExecutor(SYNC_THREADS) as pool:
        return list(pool.map(work, waiting))


def _size_bytes(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _named_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise DiskFull from error
        raise
