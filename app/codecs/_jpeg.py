"""JPEG files by libjpeg-turbo itself: the pixels that Pillow gives, for half of the work."""

from collections.abc import Callable
from typing import Final

import simplejpeg
from PIL import Image

from app.codecs._preprocessing import ImagePreprocessing

SPARE: Final = 3
"""A large photograph is decoded at a fraction of its size that leaves so many times the side that is needed, or more.
So it changes embeddings less than one step of a JPEG's quality does (decision record 13)."""

_MODES: Final = {"GRAY": "L", "RGB": "RGB", "RGBX": "RGBX"}


def read_jpeg(
    data: bytes, how: ImagePreprocessing, check_pixels: Callable[[int, int], None]
) -> tuple[Image.Image, tuple[int, int]] | None:
    """The image in mode L, RGB or RGBX (RGB, a fourth byte unused) and its whole size; `None` where Pillow must look.

    That is for CMYK and other rare kinds, and for whatever is not clean: a file that is cut short, or holds more than
    it should. `check_pixels` gets width and height from the header, before anything is decoded.
    """
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours not in {"YCbCr", "Gray"}:
            return None
        check_pixels(width, height)
        # Pillow keeps RGB in four bytes a pixel: what has them is not copied.
        wanted = "GRAY" if colours == "Gray" else "RGB" if how.channels == 1 else "RGBX"
        side = _least_side(how)
        pixels = simplejpeg.decode_jpeg(data, wanted, min_height=side, min_width=side, min_factor=2 if side else 1)
    except ValueError:
        return None
    mode = _MODES[wanted]
    image = Image.frombuffer(mode, (pixels.shape[1], pixels.shape[0]), pixels, "raw", mode, 0, 1)
    return image, (width, height)


def _least_side(how: ImagePreprocessing) -> int:
    """No side of the decoded photograph may be shorter; 0 is for drawings, which are judged by all of their pixels."""
    if how.polarity is not None:
        return 0
    return SPARE * (max(how.height, how.width) if how.resize == "stretch" else how.resize)
