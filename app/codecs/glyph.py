"""Drawings: whatever the paper and the pen, ink 255 on 0, as the glyph backbones were trained on."""

from typing import Final

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image

from app.codecs._preprocessing import ImagePreprocessing

_LEAST_CONTRAST: Final = 8
"""Grey levels between the darkest and the brightest pixel under which a page counts as blank."""


def ink_bright(image: Image.Image, how: ImagePreprocessing) -> Image.Image:
    """A drawing (mode L, RGB or RGBA) as a grey image of the card's size with ink 255 on 0.

    - Transparent pixels are paper: white where the visible ones are dark on average, else black.
    - The paper is bright where more than half of the pixels are brighter than the middle between
      darkest and brightest, counting the border (where ink is rare) as much as the whole.
    - Stretched so that the median of the paper becomes 0 and the far end of the ink 255, linear
      between; again after resizing, which pales thin strokes. A blank page becomes all 0.
    - The aspect is kept: scaled to fit, centred, padded with paper. Nothing is cropped.

    A 28 x 28 image with paper 0 and some ink 255 comes out as it came in.
    """
    grey = _on_paper(image)
    levels = _ink_of_each_grey(np.array(grey.histogram(), dtype=np.int64), _border_histogram(grey))
    drawing = _padded(grey.point(levels.tolist()), how)
    peak = max(1, np.asarray(drawing).max())
    return drawing.point([min(255, round(level * 255 / peak)) for level in range(256)])


def _on_paper(image: Image.Image) -> Image.Image:
    if image.mode != "RGBA":
        return image.convert("L")
    grey, alpha = image.convert("RGB").convert("L"), image.getchannel("A")
    visible = alpha.point([0] * 128 + [255] * 128)
    counts = np.array(grey.histogram(visible), dtype=np.int64)
    mean = (counts * np.arange(256)).sum() / max(1, counts.sum())
    paper = Image.new("L", image.size, 255 if mean < 128 else 0)
    paper.paste(grey, mask=alpha)
    return paper


def _border_histogram(grey: Image.Image) -> Int64[np.ndarray, "256"]:
    pixels = np.asarray(grey)
    border = np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])
    return np.bincount(border, minlength=256).astype(np.int64)


def _ink_of_each_grey(whole: Int64[np.ndarray, "256"], border: Int64[np.ndarray, "256"]) -> UInt8[np.ndarray, "256"]:
    """How much ink (0..255) each grey level stands for, from the two histograms."""
    present = np.flatnonzero(whole)
    darkest, brightest = int(present[0]), int(present[-1])
    if brightest - darkest < _LEAST_CONTRAST:
        return np.zeros(256, dtype=np.uint8)
    bright = np.arange(256) * 2 > darkest + brightest
    bright_share = (whole[bright].sum() / whole.sum() + border[bright].sum() / border.sum()) / 2
    paper_is_bright = bool(bright_share > 0.5)
    counts = np.where(bright == paper_is_bright, whole, 0).cumsum()
    paper = int(np.searchsorted(counts, (counts[-1] + 1) // 2))
    ink = darkest if paper_is_bright else brightest
    stretched = (np.arange(256) - paper) * (255 / (ink - paper))
    levels: UInt8[np.ndarray, "256"] = np.rint(stretched.clip(0, 255)).astype(np.uint8)
    return levels


def _padded(drawing: Image.Image, how: ImagePreprocessing) -> Image.Image:
    scale = min(how.width / drawing.width, how.height / drawing.height)
    width, height = max(1, round(drawing.width * scale)), max(1, round(drawing.height * scale))
    page = Image.new("L", (how.width, how.height), 0)
    fitted = drawing.resize((width, height), how.resampling(enlarges=scale > 1))
    page.paste(fitted, ((how.width - width) // 2, (how.height - height) // 2))
    return page
