"""Keyset pages: a cursor holds the last key seen, so inserts and deletions shift nothing."""

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import TypeVar

from app.registry.errors import BadCursor
from app.registry.records import Page

T = TypeVar("T")


def cut_page(kind: str, records: Sequence[T], limit: int, key: Callable[[T], str]) -> Page[T]:
    """Make a page of at most `limit` records from a query for `limit + 1`: the extra one says that there is more."""
    items = tuple(records[:limit])
    more = len(records) > limit and len(items) > 0
    return Page(items, encode_cursor(kind, key(items[-1])) if more else None)


def encode_cursor(kind: str, key: str) -> str:
    """Wrap the last key of a page; `kind` names the list, so that no other list takes the cursor."""
    return base64.urlsafe_b64encode(f"{kind}:{key}".encode()).decode().rstrip("=")


def decode_cursor(kind: str, cursor: str) -> str:
    """Read the key back. Raises `BadCursor` for anything that `encode_cursor(kind, ...)` did not make."""
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        text = base64.b64decode(padded, altchars=b"-_", validate=True).decode("utf-8")
    except (binascii.Error, UnicodeError) as error:
        raise BadCursor from error
    found, _, key = text.partition(":")
    if found != kind or not key or "\0" in key or encode_cursor(kind, key) != cursor:
        raise BadCursor
    return key


def decode_number(kind: str, cursor: str) -> int:
    """As `decode_cursor`, for a list whose key is a small whole number."""
    key = decode_cursor(kind, cursor)
    if not (key.isascii() and key.isdigit() and len(key) <= 9):
        raise BadCursor
    return int(key)
