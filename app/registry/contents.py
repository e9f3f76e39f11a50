"""Where content lies: small content in a row, large content in the blob store, both under the SHA-256."""

from collections.abc import Iterable, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.registry.blobs import BlobStore, sha256_hex
from app.registry.errors import BlobCorrupt
from app.registry.session import insert_missing
from app.registry.tables import SmallBlobTable

SMALL_CONTENT_BYTES = 16 * 1024
"""Up to this size an input is a row: 750 texts as files would cost 750 fsyncs."""

MODEST_CONTENT_BYTES = 48 * 1024
"""Up to this size an input is a row where those of its transaction are few: 25 small photographs as files take ten
times the work of 25 rows."""

MODEST_TOTAL_BYTES = 4 * 1024 * 1024
"""What modest inputs may add to one transaction, which every other write waits for; with more they are files."""

MOST_PARAMETERS = 500
"""Of one query: every database takes as many."""

INLINE_STATE_BYTES = 1024 * 1024
"""Up to this size a state lies in its version's row."""

Content = tuple[str, bytes | None]
"""The hash that a content must have, and the content where it is to be stored."""


def put_large(blobs: BlobStore, contents: Sequence[Content], state: bytes | None = None) -> None:
    """Put what is too large for a row into the blob store. Called before the transaction, never in it.

    Raises: `DiskFull`; `ValueError` for a content whose hash is another than it says.
    """
    most_bytes = _most_bytes_of_a_row(contents)
    large = [(sha256, content) for sha256, content in contents if content and len(content) > most_bytes]
    stored = blobs.put(content for _, content in large)
    for (sha256, _), found in zip(large, stored, strict=True):
        _check_hash(sha256, found)
    if state is not None and len(state) > INLINE_STATE_BYTES:
        blobs.put([state])


def insert_small(session: Session, contents: Sequence[Content]) -> None:
    """Insert the contents that fit a row, those that `put_large` leaves; those already there stay."""
    most_bytes = _most_bytes_of_a_row(contents)
    small = {sha256: content for sha256, content in contents if content is not None and len(content) <= most_bytes}
    for sha256, content in small.items():
        _check_hash(sha256, sha256_hex(content))
    insert_missing(session, SmallBlobTable, [{"sha256": key, "content": small[key]} for key in sorted(small)])


def read_small(session: Session, sha256: str) -> bytes | None:
    """A content that lies in a row, or `None`. Raises `BlobCorrupt`."""
    content = session.scalar(select(SmallBlobTable.content).where(SmallBlobTable.sha256 == sha256))
    if content is not None and sha256_hex(content) != sha256:
        raise BlobCorrupt(sha256)
    return content


def read_many_small(session: Session, sha256s: Iterable[str]) -> dict[str, bytes]:
    """Those contents that lie in rows. Raises `BlobCorrupt`."""
    found: dict[str, bytes] = {}
    wanted = sorted(sha256s)
    for start in range(0, len(wanted), MOST_PARAMETERS):
        part = wanted[start : start + MOST_PARAMETERS]
        query = select(SmallBlobTable.sha256, SmallBlobTable.content).where(SmallBlobTable.sha256.in_(part))
        found.update((sha256, content) for sha256, content in session.execute(query))
    for sha256, content in found.items():
        if sha256_hex(content) != sha256:
            raise BlobCorrupt(sha256)
    return found


def _most_bytes_of_a_row(contents: Sequence[Content]) -> int:
    """Of these contents, which are stored together."""
    rows_bytes = sum(len(content) for _, content in contents if content and len(content) <= MODEST_CONTENT_BYTES)
    return MODEST_CONTENT_BYTES if rows_bytes <= MODEST_TOTAL_BYTES else SMALL_CONTENT_BYTES


def _check_hash(expected: str, found: str) -> None:
    if expected != found:
        raise ValueError(f"a content with the hash {found[:12]} was given as {expected[:12]}")
