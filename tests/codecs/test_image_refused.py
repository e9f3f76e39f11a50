import base64
import contextlib
import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from app.codecs._base import RawInput, decode_inputs
from app.codecs.image import ImageCodec
from app.core.errors import ImprintError, Invalid, TooLarge, UnsupportedMedia
from app.core.limits import Limits

Encode = Callable[..., bytes]
SHARED = ImageCodec({"height": 8, "width": 8, "channels": 3, "resize": "stretch", "interpolation": "box"}, Limits())


def raw(data: bytes) -> RawInput:
    return RawInput("bytes", data, "/support/0/image_b64")


def refused(codec: ImageCodec, data: RawInput) -> ImprintError:
    with pytest.raises(ImprintError) as caught:
        codec.decode(data)
    assert [fault.pointer for fault in caught.value.faults] == [data.pointer]
    return caught.value


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def raw_png(width: int, height: int, depth: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = png_chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + extra + pixels + png_chunk(b"IEND", b"")


def quarters() -> Image.Image:
    """8 x 8: red, green over blue, white: no two turns of it look alike."""
    image = Image.new("RGB", (8, 8), "white")
    for colour, corner in (("red", (0, 0)), ("lime", (4, 0)), ("blue", (0, 4))):
        image.paste(colour, (*corner, corner[0] + 4, corner[1] + 4))
    return image


def pixels_of(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def test_an_image_of_65535_x_65535_in_its_header_is_refused(photo_codec: ImageCodec, encode: Encode) -> None:
    jpeg = bytearray(encode(quarters(), "JPEG"))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = b"\xff\xff\xff\xff"
    for data in (bytes(jpeg), raw_png(65535, 65535, 8, 2, b"")):
        error = refused(photo_codec, raw(data))
        assert isinstance(error, TooLarge)
        assert error.code == "too-many-pixels"
        assert "65535 x 65535" in error.detail


def test_the_pixels_of_a_webp_are_counted_before_it_is_opened(encode: Encode) -> None:
    codec = ImageCodec({"height": 8, "width": 8, "channels": 3, "resize": "stretch"}, Limits(image_pixels=63))
    for options in ({"lossless": True}, {"lossless": False}, {"lossless": True, "exif": b"Exif\0\0"}):
        assert refused(codec, raw(encode(quarters(), "WEBP", **options))).code == "too-many-pixels"


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.9])
def test_a_truncated_image_is_refused(photo_codec: ImageCodec, encode: Encode, file_format: str, kept: float) -> None:
    data = encode(Image.effect_noise((64, 64), 90), file_format)
    error = refused(photo_codec, raw(data[: max(12, int(len(data) * kept))]))
    assert isinstance(error, Invalid)
    assert error.code == "undecodable-image"


def test_an_empty_image_is_refused(photo_codec: ImageCodec) -> None:
    for empty in (raw(b""), RawInput("base64", "", "/x"), RawInput("base64", "data:image/png;base64,", "/x")):
        assert refused(photo_codec, empty).code == "empty-image"


def test_an_image_file_over_the_limit_is_refused_before_it_is_decoded(encode: Encode) -> None:
    codec = ImageCodec({"height": 8, "width": 8, "channels": 3, "resize": "stretch"}, Limits(image_size_bytes=60))
    data = encode(quarters(), "PNG")
    for one in (
        raw(data),
        RawInput("base64", base64.b64encode(data).decode(), "/x"),
        RawInput("base64", "?" * 99, "/x"),
    ):
        error = refused(codec, one)
        assert isinstance(error, TooLarge)
        assert error.code == "image-too-large"


def frames() -> list[Image.Image]:
    return [Image.new("L", (8, 8), level) for level in (0, 100, 200)]


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "GIF"])
def test_an_animated_image_is_refused(photo_codec: ImageCodec, encode: Encode, file_format: str) -> None:
    first, *others = frames()
    error = refused(photo_codec, raw(encode(first, file_format, save_all=True, append_images=others)))
    assert isinstance(error, UnsupportedMedia)
    assert error.code == "animated-image"
    assert "animated" in error.detail
    assert file_format.lower() in error.detail.lower()


def test_an_apng_of_one_frame_is_a_still_image(photo_codec: ImageCodec) -> None:
    rows = (b"\0" + bytes([9] * 8)) * 8
    one = raw_png(8, 8, 8, 0, rows, png_chunk(b"acTL", struct.pack(">II", 1, 0)))
    assert (photo_codec.decode(raw(one)).tensor == 9).all()
    none = raw_png(8, 8, 8, 0, rows, png_chunk(b"acTL", struct.pack(">II", 0, 0)))
    assert refused(photo_codec, raw(none)).code == "animated-image"


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"GIF89a" + bytes(40), "GIF"),
        (b"II*\0" + bytes(40), "TIFF"),
        (b"BM" + bytes(40), "BMP"),
        (b"%PDF-1.7 ", "PDF"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>\n<svg xmlns='x'/>", "SVG"),
        (b"<svg/>", "SVG"),
        (b"\0\0\0\x1cftypavif", "AVIF"),
        (b"\0\0\0\x1cftypheic", "HEIC"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (b"PK\x03\x04", "zip"),
        (b"just some words", "no image format"),
        (b"\0", "no image format"),
    ],
)
def test_other_formats_are_refused_by_name(photo_codec: ImageCodec, data: bytes, name: str) -> None:
    error = refused(photo_codec, RawInput("bytes", data, "/image", "image/png"))
    assert isinstance(error, UnsupportedMedia)
    assert error.code == "unsupported-image-format"
    assert name in error.detail


@pytest.mark.parametrize(
    "text", ["abc", "ab==cd==", "iVBO\nRw==", " iVBO", "iVB_-A==", "é", "\ud800", "data:,abc", "====", "a" * 5]
)
def test_what_is_not_strict_base64_is_refused(photo_codec: ImageCodec, text: str) -> None:
    assert refused(photo_codec, RawInput("base64", text, "/x")).code == "invalid-base64"


@pytest.mark.parametrize("url", ["http://example.com/a.png", "HTTPS://example.com/cat.jpg", " file:///etc/passwd"])
def test_a_url_where_an_image_belongs_is_refused_and_not_fetched(photo_codec: ImageCodec, url: str) -> None:
    for one in (RawInput("base64", url, "/x"), RawInput("bytes", url.encode(), "/x")):
        error = refused(photo_codec, one)
        assert isinstance(error, Invalid)
        assert error.code == "url-not-fetched"
        assert "never fetched" in error.detail


@pytest.mark.parametrize("kind", ["text", "vector"])
def test_other_kinds_than_images_are_refused(photo_codec: ImageCodec, kind: str) -> None:
    content = "a cat" if kind == "text" else [1.0]
    assert refused(photo_codec, RawInput(kind, content, "/x")).code == "wrong-input-kind"


def test_faults_of_several_codes_of_one_family_come_in_one_error(photo_codec: ImageCodec) -> None:
    raws = [RawInput("base64", text, f"/inputs/{at}") for at, text in enumerate(["", "%%%", "http://x/", "/9j/"])]
    with pytest.raises(Invalid) as caught:
        decode_inputs(photo_codec, raws)
    assert [(fault.pointer, fault.code) for fault in caught.value.faults] == [
        ("/inputs/0", "empty-image"),
        ("/inputs/1", "invalid-base64"),
        ("/inputs/2", "url-not-fetched"),
        ("/inputs/3", "undecodable-image"),
    ]


def seeds() -> list[bytes]:
    files = []
    for file_format in ("JPEG", "PNG", "WEBP"):
        for mode in ("L", "RGB"):
            buffer = io.BytesIO()
            Image.effect_noise((12, 12), 90).convert(mode).save(
                buffer, file_format, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0"
            )
            files.append(buffer.getvalue())
    return files


@given(data=st.data(), seed=st.sampled_from(seeds()))
def test_any_damage_to_an_image_is_an_image_or_an_error_of_ours(data: st.DataObject, seed: bytes) -> None:
    damaged = bytearray(seed)
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, len(seed) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ImprintError):
        assert SHARED.decode(raw(bytes(damaged))).tensor.shape == (3, 8, 8)


@given(st.one_of(st.binary(max_size=64), st.sampled_from(seeds()).map(lambda seed: seed[:20])), st.binary(max_size=64))
def test_any_bytes_are_an_image_or_an_error_of_ours(start: bytes, rest: bytes) -> None:
    with contextlib.suppress(ImprintError):
        SHARED.decode(raw(start + rest))


@given(st.text(max_size=40))
def test_any_string_is_an_image_or_an_error_of_ours(text: str) -> None:
    with pytest.raises(ImprintError):
        SHARED.decode(RawInput("base64", text, "/x"))
