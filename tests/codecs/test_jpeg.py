"""What libjpeg-turbo gives is held against Pillow, which decodes all of a file and then resizes."""

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from app.codecs._base import RawInput
from app.codecs._formats import jpeg_exif
from app.codecs._jpeg import read_jpeg
from app.codecs._pixels import fit
from app.codecs._preprocessing import ImagePreprocessing
from app.codecs.image import ImageCodec
from app.core.errors import ImprintError
from app.core.limits import Limits

Encode = Callable[..., bytes]
CARD: dict[str, object] = {"height": 56, "width": 56, "channels": 3, "resize": 64, "crop": "center"}
SCENE = Image.effect_mandelbrot((400, 300), (-2.2, -1.2, 0.8, 1.2), 60)


def scene(width: int, height: int) -> Image.Image:
    """Colours, edges and smooth places."""
    parts = [SCENE.rotate(angle).resize((width, height), Image.Resampling.BICUBIC) for angle in (0, 90, 180)]
    return Image.merge("RGB", parts)


def by_pillow(data: bytes, card: dict[str, object]) -> torch.Tensor:
    """What the codec would make of a file if Pillow decoded all of it."""
    how = ImagePreprocessing.from_card(card)
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    pixels = np.array(fit(image.convert("L" if how.channels == 1 else "RGB"), how))
    return torch.from_numpy(pixels.reshape(how.height, how.width, how.channels)).permute(2, 0, 1)


def decoded(data: bytes, card: dict[str, object]) -> torch.Tensor:
    return ImageCodec(card, Limits()).decode(RawInput("bytes", data, "/image")).tensor


def clean(data: bytes, card: dict[str, object]) -> Image.Image | None:
    found = read_jpeg(data, ImagePreprocessing.from_card(card), lambda width, height: None)
    return None if found is None else found[0]


@pytest.mark.parametrize("size", [(64, 64), (90, 70), (300, 380)])
@pytest.mark.parametrize(
    "how", [{"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2}, {"progressive": True}, {"quality": 20}]
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("channels", [1, 3])
def test_photographs_have_the_very_pixels_of_pillow(
    encode: Encode, size: tuple[int, int], how: dict[str, object], mode: str, channels: int
) -> None:
    card = CARD | {"channels": channels}
    data = encode(scene(*size).convert(mode), "JPEG", **how)
    assert clean(data, card) is not None
    assert torch.equal(decoded(data, card), by_pillow(data, card))


@pytest.mark.parametrize("size", [(800, 600), (515, 1030), (2048, 1536)])
@pytest.mark.parametrize("changes", [{}, {"channels": 1}, {"resize": "stretch", "crop": None}])
def test_large_photographs_are_decoded_small_and_differ_from_pillow_by_few_levels(
    encode: Encode, size: tuple[int, int], changes: dict[str, object]
) -> None:
    card = CARD | changes
    data = encode(scene(*size), "JPEG", quality=90)
    found = clean(data, card)
    assert found is not None
    assert 3 * 56 <= min(found.size) <= min(size) / 2
    off = (decoded(data, card).int() - by_pillow(data, card).int()).abs()
    # Of a fractal, whose edges are as hard as can be; of photographs 2 or 3.
    assert off.max() <= 20
    assert off.float().mean() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("size", "most"), [((90, 70), 0), ((515, 1030), 20)])
def test_exif_orientation_turns_a_jpeg(encode: Encode, orientation: int, size: tuple[int, int], most: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(scene(*size), "JPEG", exif=exif)
    assert clean(data, CARD) is not None
    assert (decoded(data, CARD).int() - by_pillow(data, CARD).int()).abs().max() <= most


def test_drawings_are_decoded_whole(encode: Encode) -> None:
    card = {"height": 28, "width": 28, "channels": 1, "resize": "stretch", "polarity": "ink-bright"}
    found = clean(encode(scene(800, 600), "JPEG"), card)
    assert found is not None
    assert found.size == (800, 600)


def test_pixels_are_counted_before_any_is_decoded(encode: Encode) -> None:
    seen: list[tuple[int, int]] = []

    def refuse(width: int, height: int) -> None:
        seen.append((width, height))
        raise LookupError

    half = encode(scene(90, 70), "JPEG")[:900]  # decoding it would give None
    with pytest.raises(LookupError):
        read_jpeg(half, ImagePreprocessing.from_card(CARD), refuse)
    assert seen == [(90, 70)]


def test_what_is_not_clean_is_left_to_pillow(encode: Encode) -> None:
    data = encode(scene(90, 70), "JPEG")
    for odd in (data[: len(data) // 2], data[:2], encode(scene(90, 70).convert("CMYK"), "JPEG")):
        assert clean(odd, CARD) is None
    with pytest.raises(ImprintError, match="cut short"):
        decoded(data[: len(data) // 2], CARD)
    assert torch.equal(decoded(data + b"more", CARD), by_pillow(data, CARD))


def test_the_exif_block_is_found_behind_other_segments_and_filling_bytes() -> None:
    other, exif = b"\xff\xe0\0\x04ab", b"\xff\xe1\0\x0aExif\0\0MM"
    assert jpeg_exif(b"\xff\xd8" + other + b"\xff\xff" + exif + b"\xff\xda") == b"MM"
    assert jpeg_exif(b"\xff\xd8" + b"\xff\xda" + exif) == b""
    assert jpeg_exif(b"\xff\xd8" + 5000 * other + exif) == b""
    for cut in range(2, 12):
        assert jpeg_exif((b"\xff\xd8" + exif)[:cut]) in {b"", b"M"}
