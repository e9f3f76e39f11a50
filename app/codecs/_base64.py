"""Strict base64 of an image, with or without a data URI around it."""

import binascii
import re
from typing import Final

from app.codecs._errors import BadBase64, EmptyImage, ImageTooLarge, UrlNotFetched

_URL: Final = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]*://")
_DATA_URI: Final = re.compile(r"data:[^,;]{0,200}(?:;[^,;]{0,200}){0,8}?;base64,", re.IGNORECASE)


def refuse_url(start: str, pointer: str) -> None:
    """Raises: `UrlNotFetched` where the string begins like `https://`."""
    if _URL.match(start):
        raise UrlNotFetched("URLs are never fetched: send the bytes of the image, as base64.", pointer=pointer)


def decode_base64(text: str, pointer: str, size_limit_bytes: int) -> bytes:
    """The bytes of `text`: standard alphabet, padded, no line breaks; `data:image/png;base64,` may precede.

    Raises: `UrlNotFetched`, `BadBase64`, `EmptyImage`, `ImageTooLarge` (before decoding).
    """
    refuse_url(text[:100], pointer)
    if text[:5].lower() == "data:":
        prefix = _DATA_URI.match(text)
        if prefix is None:
            raise BadBase64("A data URI must look like data:image/png;base64,...", pointer=pointer)
        text = text[prefix.end() :]
    if not text:
        raise EmptyImage("The image is empty: send the bytes of a JPEG, PNG or WebP file.", pointer=pointer)
    if len(text) // 4 * 3 > size_limit_bytes + 2:
        raise ImageTooLarge(f"The image file is over the limit of {size_limit_bytes} bytes.", pointer=pointer)
    try:
        return binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
    except (binascii.Error, UnicodeEncodeError):
        raise BadBase64(
            "This is not base64: use the standard alphabet (+ and /) with its padding and no line breaks (base64 -w0).",
            pointer=pointer,
        ) from None
