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

MOST_PARAMETERS = 500
"""Of one query: every database takes as many."""

INLINE_STATE_BYTES = 1024 * 1024
"""Up to this size a state lies in its version's row."""

Content = tuple[str, bytes | None]
"""The hash that a content must have, and the content where it is to be stored."""


def put_large(blobs: BlobStore, contents: Iterable[Content], state: bytes | None = None) -> None:
    """Put what is too large for a row into the blob store. Called before the transaction, never in it.

    Raises: `DiskFull`; `ValueError` for a content whose hash is another than it says.
    """
    large = [(sha256, content) for sha256, content in contents if content and len(content) > SMALL_CONTENT_BYTES]
    stored = blobs.put(content for _, content in large)
    for (sha256, _), found in zip(large, stored, strict=True):
        _check_hash(sha256, found)
    if state is not None and len(state) > INLINE_STATE_BYTES:
        blobs.put([state])


def insert_small(session: Session, contents: Sequence[Content]) -> None:
    """Insert the contents that fit a row; those already there stay."""
    small = {
        sha256: content for sha256, content in contents if content is not None and len(content) <= SMALL_CONTENT_BYTES
    }
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


def _check_hash(expected: str, found: str) -> None:
    if expected != found:
        raise ValueError(f"a content with the hash {found[:12]} was given as {expected[:12]}")
