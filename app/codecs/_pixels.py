"""Steps between a decoded Pillow image and the backbone's pixels. Each is pure."""

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


def fit(image: Image.Image, how: ImagePreprocessing) -> Image.Image:
    """Resize (and crop the centre) to the card's size.

    The short side becomes `resize`, the long side is cut down to whole pixels, the crop's corner is
    rounded: as torchvision's Resize and CenterCrop do. One call of `resize` with a box: an image of
    1 x 1,000,000 pixels never becomes a large one on the way.
    """
    enlarges = how.width > image.width or how.height > image.height
    if how.resize == "stretch":
        return image.resize((how.width, how.height), how.resampling(enlarges=enlarges))
    width, height = image.size
    short = min(width, height)
    scaled_width, scaled_height = how.resize * width // short, how.resize * height // short
    left, top = round((scaled_width - how.width) / 2), round((scaled_height - how.height) / 2)
    across, down = width / scaled_width, height / scaled_height
    box = (left * across, top * down, (left + how.width) * across, (top + how.height) * down)
    box = (box[0], box[1], min(box[2], float(width)), min(box[3], float(height)))
    return image.resize((how.width, how.height), how.resampling(enlarges=how.resize > short), box=box)


def _from_sixteen_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.uint32).clip(0, 65535)
    grey = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    clear = image.info.get("transparency")
    if not isinstance(clear, int):
        return grey
    alpha = Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8))
    return Image.merge("LA", (grey, alpha)).convert("RGBA")
