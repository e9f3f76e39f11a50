"""Steps between a decoded Pillow image and the backbone's pixels. Each is pure."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image
from PIL.Image import Transpose

from app.codecs._preprocessing import ImagePreprocessing

_UPRIGHT: Final = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Whole:
    """The photograph of which an image holds the pixels at eighths of its size, upright.

    The last pixels of a row or column are rounded up to a whole one, and `mirrored` (across, down) says where
    the last ones came first by turning the image upright.
    """

    size: tuple[int, int]
    mirrored: tuple[bool, bool]

    @classmethod
    def of(cls, size: tuple[int, int], orientation: int) -> "Whole":
        """Of a photograph that lies as its EXIF orientation (1 to 8) says."""
        upright_size = size[::-1] if orientation >= 5 else size
        return cls(upright_size, (orientation in {2, 3, 6, 7}, orientation in {3, 4, 7, 8}))

    def box_in(self, image: Image.Image) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the photograph."""
        ends = []
        for size, whole, mirrored in zip(image.size, self.size, self.mirrored, strict=True):
            reach = whole * round(8 * size / whole) / 8 if size < whole else float(size)
            ends.append((size - reach, float(size)) if mirrored else (0.0, reach))
        (left, right), (top, bottom) = ends
        return left, top, right, bottom


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """Turn an image as its EXIF orientation (1 to 8) asks for."""
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def eight_bit(image: Image.Image) -> Image.Image:
    """The image in mode L, RGB or, where something may be transparent, RGBA.

    16 bits are scaled (65535 becomes 255), not clipped; palettes and 1 bit are expanded; CMYK becomes
    RGB without a colour profile, in the sense of Adobe (inverted), as nearly all CMYK JPEGs are.
    """
    if image.mode.startswith("I"):
        return _from_sixteen_bit(image)
    clear = image.info.get("transparency")
    if isinstance(clear, tuple) and max(clear) > 255:
        # 16-bit colours are read by their high byte, but their transparent colour is not.
        image.info["transparency"] = tuple(part >> 8 for part in clear)
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image if image.mode in {"L", "RGB"} else image.convert("L" if image.mode == "1" else "RGB")


def over_white(image: Image.Image) -> Image.Image:
    """An RGBA image laid on a white page; any other as it is."""
    if image.mode != "RGBA":
        return image
    page = Image.new("RGBA", image.size, "white")
    page.alpha_composite(image)
    return page.convert("RGB")


def fit(image: Image.Image, how: ImagePreprocessing, whole: Whole | None = None) -> Image.Image:
    """Resize (and crop the centre) to the card's size.

    The short side becomes `resize`, the long side is cut down to whole pixels, the crop's corner is
    rounded: as torchvision's Resize and CenterCrop do. One call of `resize` with a box: an image of
    1 x 1,000,000 pixels never becomes a large one on the way.
    """
    whole = whole or Whole(image.size, (False, False))
    width, height = whole.size
    first, upper, last, lower = whole.box_in(image)
    if how.resize == "stretch":
        enlarges = how.width > image.width or how.height > image.height
        return image.resize((how.width, how.height), how.resampling(enlarges=enlarges), box=(first, upper, last, lower))
    short = min(width, height)
    scaled_width, scaled_height = how.resize * width // short, how.resize * height // short
    left, top = round((scaled_width - how.width) / 2), round((scaled_height - how.height) / 2)
    across, down = (last - first) / scaled_width, (lower - upper) / scaled_height
    right, bottom = first + (left + how.width) * across, upper + (top + how.height) * down
    box = (first + left * across, upper + top * down, min(right, last), min(bottom, lower))
    return image.resize((how.width, how.height), how.resampling(enlarges=how.resize > short), box=box)


def planes(image: Image.Image) -> bytearray:
    """The bytes of an image in mode L, RGB or RGBX, one channel after the other."""
    if image.mode == "L":
        return bytearray(image.tobytes())
    return bytearray().join(image.tobytes("raw", channel) for channel in "RGB")


def _from_sixteen_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.uint32).clip(0, 65535)
    grey = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    clear = image.info.get("transparency")
    if not isinstance(clear, int):
        return grey
    alpha = Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8))
    return Image.merge("LA", (grey, alpha)).convert("RGBA")
