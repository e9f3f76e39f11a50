"""Files and pixels to tensors through the codecs that serve: training sees what serving sees."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from PIL import Image
from torch import Tensor

from app.backbones._base import Modality
from app.codecs import Codec, DecodedInput, RawInput
from app.codecs.image import ImageCodec
from app.codecs.text import TextCodec
from app.codecs.vector import VectorCodec
from app.core.errors import ImprintError
from app.core.limits import Limits
from app.training.errors import BadRecipe

A = TypeVar("A")
B = TypeVar("B")


def codec_of(
    modality: Modality, preprocessing: Mapping[str, object], tokenizer_path: Path | None = None, dim: int | None = None
) -> Codec:
    """The codec of a checkpoint that is still to be made; `preprocessing` is its card's, `dim` that of vectors.

    Raises: `BadRecipe` for a preprocessing or tokenizer that cannot be, or texts without a tokenizer.
    """
    try:
        if modality == "image":
            return ImageCodec(preprocessing, Limits())
        if modality == "vector":
            return VectorCodec(Limits(), dim)
        if tokenizer_path is None:
            raise BadRecipe("Texts need a tokenizer: start from a checkpoint that reads texts.")
        return TextCodec(tokenizer_path, preprocessing, Limits())
    except ValueError as error:
        raise BadRecipe(f"The recipe is wrong at 'card.preprocessing': {error}") from error


def decode_files(codec: Codec, files: Sequence[Path]) -> Iterator[DecodedInput | str]:
    """Decode each file; where one is unreadable, the reason takes its place. In the order of `files`."""

    def decoded(file: Path) -> DecodedInput | str:
        try:
            return codec.decode(RawInput("bytes", file.read_bytes(), ""))
        except ImprintError as error:
            return error.detail
        except OSError as error:
            return f"{error.strerror}."

    return _in_threads(decoded, files)


def as_served(
    pixels: UInt8[np.ndarray, "n height width channels"], codec: ImageCodec
) -> UInt8[Tensor, "n channels_out height_out width_out"]:
    """What the codec makes of images that are pixels already, with 1 or 3 channels.

    Those that it would give back unchanged skip it; the others pass through it, as PNG files in memory.
    """
    how = codec.preprocessing
    n, height, width, channels = pixels.shape
    found = torch.empty(n, how.channels, how.height, how.width, dtype=torch.uint8)
    through = np.ones(n, dtype=bool)
    if (height, width, channels) == (how.height, how.width, how.channels) and how.resize == "stretch":
        found[:] = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        through = np.zeros(n, dtype=bool) if how.polarity is None else ~_is_ink_on_black(pixels[..., 0])

    def decoded(at: int) -> Tensor:
        file = io.BytesIO()
        Image.fromarray(pixels[at, ..., 0] if channels == 1 else pixels[at]).save(file, "PNG", compress_level=0)
        return codec.decode(RawInput("bytes", file.getvalue(), "")).tensor

    left = np.flatnonzero(through).tolist()
    for at, image in zip(left, _in_threads(decoded, left), strict=True):
        found[at] = image
    return found


def _in_threads(work: Callable[[A], B], items: Sequence[A]) -> Iterator[B]:
    """The results in the order of the items. Pillow and the tokenizer let other threads run while they work."""
    with ThreadPoolExecutor(max_workers=torch.get_num_threads()) as threads:
        yield from threads.map(work, items)


def _is_ink_on_black(pixels: UInt8[np.ndarray, "n height width"]) -> Bool[np.ndarray, " n"]:
    """Which drawings `app/codecs/glyph.py` gives back unchanged: most paper is 0, the darkest ink is 255.

    Its conditions, for many drawings at once.
    """
    flat = pixels.reshape(len(pixels), -1)
    rim = np.ones(pixels.shape[1:], dtype=bool)
    rim[1:-1, 1:-1] = False
    bright = pixels > 127
    paper_is_dark = bright.mean((1, 2)) + bright[:, rim].mean(1) <= 1
    paper_is_black = 2 * (flat == 0).sum(1) >= (flat <= 127).sum(1)
    unchanged: Bool[np.ndarray, " n"] = paper_is_dark & paper_is_black & (flat.max(1) == 255)
    return unchanged
