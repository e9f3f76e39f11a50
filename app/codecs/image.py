"""Images: JPEG, PNG and WebP by their content, to uint8 pixels of the card's size."""

import io
import struct
import zlib
from collections.abc import Mapping
from functools import partial
from typing import ClassVar, Final, final

import torch
from jaxtyping import UInt8
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile
from torch import Tensor

from app.backbones._base import Modality
from app.codecs._base import Codec, DecodedInput, RawInput
from app.codecs._base64 import decode_base64, refuse_url
from app.codecs._errors import (
    AnimatedImage,
    EmptyImage,
    ImageTooLarge,
    TooManyPixels,
    UndecodableImage,
    UnsupportedImage,
)
from app.codecs._formats import exif_orientation, format_name, is_animated, jpeg_exif, webp_size
from app.codecs._jpeg import read_jpeg
from app.codecs._pixels import Whole, eight_bit, fit, over_white, planes, upright
from app.codecs._preprocessing import ImagePreprocessing
from app.codecs.glyph import ink_bright
from app.core.limits import Limits


class _JpegWithoutDpi(JpegImageFile):
    """Pillow's reader, but EXIF is left alone: looking for the resolution there warns on corrupt blocks."""

    def _read_dpi_from_exif(self) -> None:
        return


# The readers are called directly, not by Image.open: that one tries every plugin, turns some JPEGs into
# multi-picture files, and has a pixel limit of its own that warns through a process-wide filter.
_READERS: Final[Mapping[str, tuple[type[JpegImageFile | PngImageFile | WebPImageFile], str]]] = {
    "JPEG": (_JpegWithoutDpi, "image/jpeg"),
    "PNG": (PngImageFile, "image/png"),
    "WebP": (WebPImageFile, "image/webp"),
}
# What Pillow's readers raise on corrupt bytes.
_CORRUPT: Final = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    OverflowError,
    AttributeError,
    struct.error,
    zlib.error,
)


@final
class ImageCodec(Codec):
    """Decodes images as a card's `preprocessing` says.

    Tensor: uint8 (channels, height, width), 0..255. Applied: EXIF orientation, scaling of 16 bits, CMYK to RGB,
    palettes, transparency over white. Colour profiles are not applied. Cost: one decoding, one resize; a JPEG of six
    times the size that is needed, or more, is decoded at a fraction of its own.
    """

    modality: ClassVar[Modality] = "image"
    inputs_a_piece: ClassVar[int] = 4

    def __init__(self, preprocessing: Mapping[str, object], limits: Limits) -> None:
        super().__init__(limits)
        self.preprocessing = ImagePreprocessing.from_card(preprocessing)

    def decode(self, raw: RawInput) -> DecodedInput:
        """Decode an image's bytes or base64.

        Raises: `EmptyImage`, `BadBase64`, `UrlNotFetched`, `UndecodableImage` (422); `UnsupportedImage`,
        `AnimatedImage` (415); `ImageTooLarge`, `TooManyPixels` (413).
        """
        data = self._bytes_of(raw)
        name = self._readable_format(data, raw.pointer)
        reader, media_type = _READERS[name]
        check_pixels = partial(self._check_pixels, pointer=raw.pointer)
        jpeg = read_jpeg(data, self.preprocessing, check_pixels) if name == "JPEG" else None
        if jpeg is not None:
            image, size = jpeg
            orientation = exif_orientation(jpeg_exif(data))
            pixels = self._pixels(upright(image, orientation), Whole.of(size, orientation))
            return DecodedInput(pixels, data, media_type)
        try:
            with reader(io.BytesIO(data)) as image:
                check_pixels(image.width, image.height)
                image.load()
                orientation = exif_orientation(image.info.get("exif", b""))
                pixels = self._pixels(upright(eight_bit(image), orientation))
        except _CORRUPT:
            raise UndecodableImage(f"This {name} image is cut short or corrupt.", pointer=raw.pointer) from None
        return DecodedInput(pixels, data, media_type)

    def _bytes_of(self, raw: RawInput) -> bytes:
        if raw.kind == "base64" and isinstance(raw.content, str):
            data = decode_base64(raw.content, raw.pointer, self.limits.image_size_bytes)
        elif raw.kind == "bytes" and isinstance(raw.content, bytes):
            data = raw.content
        else:
            self.refuse_kind(raw)
        if not data:
            raise EmptyImage("The image is empty: send the bytes of a JPEG, PNG or WebP file.", pointer=raw.pointer)
        if len(data) > self.limits.image_size_bytes:
            raise ImageTooLarge(
                f"The image file has {len(data)} bytes; the limit is {self.limits.image_size_bytes}.",
                pointer=raw.pointer,
            )
        return data

    def _readable_format(self, data: bytes, pointer: str) -> str:
        """The format's name, after everything that the header alone can refuse."""
        name = format_name(data)
        if name is None:
            refuse_url(data[:100].decode("latin-1"), pointer)
        if name in {"PNG", "WebP", "GIF"} and is_animated(data, name):
            raise AnimatedImage(
                f"This is an animated {name} file; send the one frame that is meant, as JPEG, PNG or WebP.",
                pointer=pointer,
            )
        if name is None or name not in _READERS:
            what = f"This is a {name} file" if name else "These bytes are no image format that is known here"
            raise UnsupportedImage(f"{what}; send JPEG, PNG or WebP.", pointer=pointer)
        if name == "WebP" and (size := webp_size(data)):
            self._check_pixels(*size, pointer)
        return name

    def _check_pixels(self, width: int, height: int, pointer: str) -> None:
        if width * height > self.limits.image_pixels:
            raise TooManyPixels(
                f"The image has {width} x {height} pixels; the limit is {self.limits.image_pixels} pixels.",
                pointer=pointer,
            )

    def _pixels(self, image: Image.Image, whole: Whole | None = None) -> UInt8[Tensor, "channels height width"]:
        how = self.preprocessing
        if how.polarity == "ink-bright":
            fitted = ink_bright(image, how)
        elif image.mode == "RGBX":
            fitted = fit(image, how, whole)
        else:
            fitted = fit(over_white(image).convert("L" if how.channels == 1 else "RGB"), how, whole)
        return torch.frombuffer(planes(fitted), dtype=torch.uint8).reshape(how.channels, how.height, how.width)
