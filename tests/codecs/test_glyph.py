from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from app.codecs._base import RawInput
from app.codecs.image import ImageCodec

Encode = Callable[..., bytes]


def drawing() -> np.ndarray:
    """28 x 28, ink 255 on 0 with grey edges, like Omniglot shrunk by a box."""
    pixels = np.zeros((28, 28), dtype=np.uint8)
    pixels[4:24, 12:15] = 255
    pixels[10:12, 5:22] = 255
    pixels[4:24, 15] = 128
    return pixels


def glyph(codec: ImageCodec, data: bytes) -> np.ndarray:
    return codec.decode(RawInput("bytes", data, "/x")).tensor[0].numpy()


def test_a_drawing_with_bright_ink_stays_as_it_is(glyph_codec: ImageCodec, encode: Encode) -> None:
    assert (glyph(glyph_codec, encode(Image.fromarray(drawing()), "PNG")) == drawing()).all()


def test_dark_ink_on_white_paper_gives_the_same_as_bright_ink(glyph_codec: ImageCodec, encode: Encode) -> None:
    for mode in ("L", "RGB"):
        image = Image.fromarray(255 - drawing()).convert(mode)
        assert (glyph(glyph_codec, encode(image, "PNG")) == drawing()).all()


@pytest.mark.parametrize("ink", [(0, 0, 0), (255, 255, 255), (200, 30, 30)])
def test_ink_on_transparent_paper_is_seen_whatever_its_colour(
    glyph_codec: ImageCodec, encode: Encode, ink: tuple[int, int, int]
) -> None:
    image = Image.new("RGBA", (28, 28), (*ink, 0))
    image.putalpha(Image.fromarray(drawing()))
    assert np.abs(glyph(glyph_codec, encode(image, "PNG")).astype(int) - drawing()).max() <= 2


def test_faint_ink_on_grey_paper_is_stretched(glyph_codec: ImageCodec, encode: Encode) -> None:
    faint = (180 - drawing().astype(int) * 100 // 255).astype(np.uint8)
    assert np.abs(glyph(glyph_codec, encode(Image.fromarray(faint), "PNG")).astype(int) - drawing()).max() <= 3


@pytest.mark.parametrize("level", [0, 90, 255])
def test_a_blank_page_is_all_paper(glyph_codec: ImageCodec, encode: Encode, level: int) -> None:
    image = Image.new("L", (40, 40), level)
    image.putpixel((3, 3), min(255, level + 5))
    assert (glyph(glyph_codec, encode(image, "PNG")) == 0).all()
    assert (glyph(glyph_codec, encode(Image.new("LA", (9, 9), (0, 0)), "PNG")) == 0).all()


def test_bold_ink_that_covers_most_of_the_page_is_still_ink(glyph_codec: ImageCodec, encode: Encode) -> None:
    bold = np.zeros((28, 28), dtype=np.uint8)
    bold[2:26, 2:26] = 255
    for pixels in (bold, 255 - bold):
        assert (glyph(glyph_codec, encode(Image.fromarray(pixels), "PNG")) == bold).all()


def test_the_aspect_is_kept_and_the_rest_is_paper(glyph_codec: ImageCodec, encode: Encode) -> None:
    wide = np.full((28, 56), 255, dtype=np.uint8)
    wide[6:22, 6:50] = 0
    pixels = glyph(glyph_codec, encode(Image.fromarray(wide), "PNG"))
    assert (pixels[:7] == 0).all()
    assert (pixels[21:] == 0).all()
    assert pixels[14, 14] == 255
    assert (glyph(glyph_codec, encode(Image.fromarray(wide.T), "PNG")) == pixels.T).all()


def test_thin_strokes_of_a_large_drawing_are_not_pale(glyph_codec: ImageCodec, encode: Encode) -> None:
    large = Image.new("L", (840, 840), 255)
    large.paste(0, (400, 100, 404, 740))
    assert glyph(glyph_codec, encode(large, "PNG")).max() == 255


@pytest.mark.data
def test_omniglot_comes_out_as_it_came_in_either_polarity(
    glyph_codec: ImageCodec, encode: Encode, data_dir: Path
) -> None:
    images = np.load(data_dir / "omniglot" / "omniglot_28.npz")["images"].reshape(-1, 28, 28)
    chosen = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:100].numpy()]
    for pixels in chosen[chosen.max(axis=(1, 2)) == 255]:
        for page in (pixels, 255 - pixels):
            assert (glyph(glyph_codec, encode(Image.fromarray(page), "PNG")) == pixels).all()
