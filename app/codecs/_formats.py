"""What a file is, by its first bytes. Declared types and names are never trusted."""

import struct
from typing import Final

_MAGIC: Final = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF8", "GIF"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),
    (b"MM\x00+", "TIFF"),
    (b"BM", "BMP"),
    (b"%PDF", "PDF"),
    (b"%!PS", "PostScript"),
    (b"8BPS", "Photoshop"),
    (b"\x00\x00\x01\x00", "ICO"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"PK\x03\x04", "zip"),
)
_BRANDS: Final = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIF", b"msf1": "HEIF"}

_MOST_SEGMENTS: Final = 1_000
"""Looked at in front of a JPEG's pixels; a file may hold millions."""


def format_name(data: bytes) -> str | None:
    """The format's usual name, `None` where it is not recognised."""
    for magic, name in _MAGIC:
        if data.startswith(magic):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12], "MP4")
    start = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<svg" in start:
        return "SVG"
    if start.startswith((b"<!doctype html", b"<html")):
        return "HTML"
    return "XML" if start.startswith(b"<?xml") else None


def is_animated(data: bytes, name: str) -> bool:
    """Whether a PNG, WebP or GIF announces several frames."""
    if name == "PNG":
        return _png_is_animated(data)
    if name == "WebP":
        return data[12:16] == b"VP8X" and len(data) > 20 and bool(data[20] & 2)
    return name == "GIF" and (b"NETSCAPE2.0" in data or data.count(b"\x21\xf9\x04") > 1)


def webp_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in a WebP's header; `None` where it is corrupt.

    Read here since the decoder reserves memory for the canvas as soon as it is opened.
    """
    chunk = data[12:16]
    if len(data) < 30:
        return None
    if chunk == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        return width, height
    if chunk == b"VP8L" and data[20] == 0x2F:
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def jpeg_exif(data: bytes) -> bytes:
    """The EXIF block of a JPEG, empty where there is none among its first segments."""
    at, found = 2, b""
    for _ in range(_MOST_SEGMENTS):
        if data[at : at + 1] != b"\xff" or data[at + 1 : at + 2] == b"\xda":  # the pixels
            break
        if data[at + 1 : at + 2] == b"\xff":  # a filling byte
            at += 1
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        segment = data[at + 4 : at + 2 + length]
        if data[at + 1 : at + 2] == b"\xe1" and segment.startswith(b"Exif\0\0"):
            found += segment[6:]
        at += 2 + length
    return found


def exif_orientation(exif: bytes) -> int:
    """The orientation (1 to 8) that an EXIF block asks for; 1 where it is absent or corrupt.

    Read here since Pillow's reader warns on corrupt blocks, and a photograph is still good without it.
    """
    block = exif.removeprefix(b"Exif\x00\x00")
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", block, 4)
        (entries,) = struct.unpack_from(order + "H", block, start)
        for number in range(entries):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", block, start + 2 + 12 * number)
            if tag == 0x0112:
                return value if kind == 3 and 1 <= value <= 8 else 1
    except struct.error:
        return 1
    return 1


def _png_is_animated(data: bytes) -> bool:
    """Walk the chunks before the pixels for `acTL` (animation control) with other than one frame."""
    at, seen = 8, 0
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"IDAT":
            return False
        if kind == b"acTL":
            seen += 1
            frames = int.from_bytes(data[at + 8 : at + 12], "big")
            if frames != 1 or seen > 1:
                return True
        at += 12 + length
    return False
