import base64
import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from app.codecs._base import RawInput
from app.codecs.image import ImageCodec
from app.core.errors import ImprintError
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


@pytest.mark.parametrize(
    ("file_format", "options", "media_type"),
    [("PNG", {}, "image/png"), ("WEBP", {"lossless": True}, "image/webp"), ("JPEG", {"quality": 100}, "image/jpeg")],
)
def test_each_format_on_the_list_is_read_by_its_content(
    photo_codec: ImageCodec, encode: Encode, file_format: str, options: dict[str, object], media_type: str
) -> None:
    data = encode(quarters(), file_format, subsampling=0, **options)
    item = photo_codec.decode(RawInput("bytes", data, "/image", "application/x-lies"))
    assert item.media_type == media_type
    assert item.content == data
    assert item.tensor.dtype == torch.uint8
    assert (item.tensor.int() - pixels_of(quarters()).int()).abs().max() <= 8


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
def test_exif_orientation_is_applied(
    photo_codec: ImageCodec, encode: Encode, orientation: int, file_format: str
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(quarters(), file_format, exif=exif, lossless=True)
    from PIL import ImageOps

    expected = pixels_of(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert torch.equal(photo_codec.decode(raw(data)).tensor, expected)


def test_exif_orientation_of_a_jpeg_turns_it(encode: Encode, limits: Limits) -> None:
    codec = ImageCodec({"height": 8, "width": 8, "channels": 1, "resize": "stretch"}, limits)
    image = Image.new("L", (64, 32), 0)
    image.paste(255, (0, 0, 32, 32))
    exif = Image.Exif()
    exif[0x0112] = 6  # the left of the file is the top of the scene
    pixels = codec.decode(raw(encode(image, "JPEG", exif=exif))).tensor[0]
    assert pixels[0].min() > 200
    assert pixels[-1].max() < 50


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"])
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_a_corrupt_exif_block_is_passed_over(
    photo_codec: ImageCodec, encode: Encode, exif: bytes, file_format: str
) -> None:
    assert photo_codec.decode(raw(encode(quarters(), file_format, exif=exif))).tensor.shape == (3, 8, 8)


def test_sixteen_bit_grey_is_scaled_not_clipped(photo_codec: ImageCodec) -> None:
    values = np.linspace(0, 65535, 64).astype(">u2").reshape(8, 8)
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    pixels = photo_codec.decode(raw(raw_png(8, 8, 16, 0, rows))).tensor
    assert torch.equal(pixels[0], torch.from_numpy(np.rint(values.astype(float) / 257).astype(np.uint8)))
    assert torch.equal(pixels[0], pixels[2])


def test_the_clear_value_of_sixteen_bit_images_is_white(photo_codec: ImageCodec) -> None:
    rows = (b"\0" + struct.pack(">4H", 1000, 1000, 30000, 30000) * 2) * 8
    grey = photo_codec.decode(raw(raw_png(8, 8, 16, 0, rows, png_chunk(b"tRNS", struct.pack(">H", 1000))))).tensor
    assert grey[0, 0].tolist() == [255, 255, 117, 117] * 2
    rows = (b"\0" + struct.pack(">3H", 40000, 0, 0) * 8) * 8
    clear = png_chunk(b"tRNS", struct.pack(">3H", 40000, 0, 0))
    assert (photo_codec.decode(raw(raw_png(8, 8, 16, 2, rows, clear))).tensor == 255).all()


@pytest.mark.parametrize("ink", [(0, 0, 0, 0), (255, 0, 0, 0), (0, 255, 255, 128)])
def test_adobe_cmyk_jpegs_become_the_right_rgb(
    photo_codec: ImageCodec, encode: Encode, ink: tuple[int, int, int, int]
) -> None:
    data = encode(Image.new("CMYK", (8, 8), ink), "JPEG", quality=100)
    assert b"Adobe" in data
    cyan, magenta, yellow, black = ink
    expected = [(255 - part) * (255 - black) / 255 for part in (cyan, magenta, yellow)]
    got = photo_codec.decode(raw(data)).tensor[:, 4, 4].tolist()
    assert got == pytest.approx(expected, abs=3)


def test_transparency_is_laid_over_white(photo_codec: ImageCodec, encode: Encode) -> None:
    half = encode(Image.new("RGBA", (8, 8), (255, 0, 0, 128)), "PNG")
    assert photo_codec.decode(raw(half)).tensor[:, 0, 0].tolist() == pytest.approx([255, 127, 127], abs=1)
    clear = encode(Image.new("LA", (8, 8), (0, 0)), "PNG")
    assert (photo_codec.decode(raw(clear)).tensor == 255).all()
    webp = encode(Image.new("RGBA", (8, 8), (0, 0, 0, 0)), "WEBP", lossless=True)
    assert (photo_codec.decode(raw(webp)).tensor == 255).all()


@pytest.mark.parametrize("transparency", [0, bytes([0, 255, 255])])
def test_palettes_with_transparency_are_laid_over_white(
    photo_codec: ImageCodec, encode: Encode, transparency: int | bytes
) -> None:
    image = Image.new("P", (8, 8), 0)
    image.putpalette([10, 20, 30, 0, 0, 255, 0, 255, 0])
    image.paste(1, (4, 0, 8, 8))
    pixels = photo_codec.decode(raw(encode(image, "PNG", transparency=transparency))).tensor
    assert pixels[:, 0, 0].tolist() == [255, 255, 255]
    assert pixels[:, 0, 7].tolist() == [0, 0, 255]
    assert photo_codec.decode(raw(encode(image, "PNG"))).tensor[:, 0, 0].tolist() == [10, 20, 30]


@pytest.mark.parametrize("mode", ["1", "L"])
def test_one_bit_and_grey_images_fill_all_channels(photo_codec: ImageCodec, encode: Encode, mode: str) -> None:
    image = Image.new(mode, (8, 8), 0)
    image.paste(255, (0, 0, 4, 8))
    pixels = photo_codec.decode(raw(encode(image, "PNG"))).tensor
    assert pixels[:, 0, 0].tolist() == [255, 255, 255]
    assert pixels[:, 0, 7].tolist() == [0, 0, 0]


@pytest.mark.parametrize("size", [(300, 200), (200, 301), (257, 256), (100, 40)])
def test_short_side_and_centre_crop_are_those_of_two_separate_steps(
    encode: Encode, limits: Limits, size: tuple[int, int]
) -> None:
    codec = ImageCodec({"height": 48, "width": 48, "channels": 3, "resize": 56, "crop": "center"}, limits)
    image = Image.effect_noise(size, 90).convert("RGB")
    scaled = [int(56 * side / min(size)) for side in size]
    left, top = (round((side - 48) / 2) for side in scaled)
    expected = pixels_of(image.resize(scaled, Image.Resampling.BICUBIC).crop((left, top, left + 48, top + 48)))
    got = codec.decode(raw(encode(image, "PNG"))).tensor
    assert (got.int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize("size", [(1, 100_000), (100_000, 1), (1, 1)])
def test_extreme_shapes_are_decoded_without_a_large_image_on_the_way(
    encode: Encode, limits: Limits, glyph_codec: ImageCodec, size: tuple[int, int]
) -> None:
    codec = ImageCodec({"height": 224, "width": 224, "channels": 3, "resize": 256, "crop": "center"}, limits)
    data = encode(Image.new("L", size, 7), "PNG")
    assert (codec.decode(raw(data)).tensor == 7).all()
    assert glyph_codec.decode(raw(data)).tensor.shape == (1, 28, 28)


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,", "DATA:image/jpeg;charset=x;base64,", "data:;base64,"])
def test_base64_is_read_with_and_without_a_data_uri(photo_codec: ImageCodec, encode: Encode, prefix: str) -> None:
    data = encode(quarters(), "PNG")
    item = photo_codec.decode(RawInput("base64", prefix + base64.b64encode(data).decode(), "/x"))
    assert item.content == data


@pytest.mark.parametrize(
    "wrong",
    [
        {"resize": "crop"},
        {"resize": 4, "crop": "center"},
        {"resize": 8},
        {"channels": 2},
        {"height": "8"},
        {"interpolation": "magic"},
        {"colour": 1},
        {"polarity": "ink-bright"},
    ],
)
def test_preprocessing_that_cannot_be_is_refused_when_loaded(limits: Limits, wrong: dict[str, object]) -> None:
    right = {"height": 8, "width": 8, "channels": 3, "resize": "stretch"}
    with pytest.raises(ValueError, match="preprocessing of images is wrong"):
        ImageCodec(right | wrong, limits)
