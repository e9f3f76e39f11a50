"""CIFAR-FS: the 100 classes of CIFAR-100 as 64, 16 and 20 (Bertinetto, Henriques, Torr, Vedaldi, ICLR 2019)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import UInt8

from app.codecs import Codec, RawInput
from app.codecs._formats import webp_size
from app.codecs.image import ImageCodec
from app.core.errors import ImprintError
from app.core.limits import Limits
from app.learners._settings import LearnerSettings
from app.training.datasets import images
from app.training.datasets._images import decode_classes, image_codec
from app.training.datasets._splits import SPLIT_FILE, SplitSettings, classes_of
from app.training.decoding import as_served
from app.training.errors import BadData
from app.training.sampler import Pool

SIDE: Final = 32
ROWS: Final = 25
COLUMNS: Final = 24
USUAL_LISTS: Final = "splits/bertinetto/{split}.txt"
ORIGINAL: Final = "cifar-100-binary"
_MOSAIC: Final = {"height": ROWS * SIDE, "width": COLUMNS * SIDE, "channels": 3, "resize": "stretch"}
_ROW_BYTES: Final = 2 + 3 * SIDE * SIDE


@dataclass(frozen=True)
class Settings(LearnerSettings):
    """Of CIFAR-FS."""

    classes: str = field(
        default="",
        metadata={
            "description": "The lists of the splits, or folders; empty: split.json, splits/bertinetto or folders"
        },
    )


def load(folder: Path, split: str, codec: Codec, settings: Settings) -> Pool:
    """The classes of one split, 600 images each: uint8 (n, channels, height, width).

    The images are mosaics, `<class>.webp` (lossless, 25 rows x 24 columns of 32x32 RGB, row by row); or the
    authors' `cifar-100-binary`; or files in a folder for each class, in `folder`, in its folder `data`, or in train,
    val and test. The splits are in `split.json`, in `splits/bertinetto/<split>.txt`, or are those three folders.
    Raises: `BadData` for a mosaic of another size, and as `images.load`; `OSError`.
    """
    image = image_codec(codec, "cifar_fs")
    lists = settings.classes or _usual_lists(folder)
    arrays = _arrays(folder)
    if arrays is not None:
        names = classes_of(split, folder, SplitSettings(lists), list(arrays))
        return Pool.of_classes([as_served(_pixels(arrays[name]), image) for name in names], names)
    place = folder / "data" if (folder / "data").is_dir() else folder
    lists = lists if lists == "folders" else str((folder / lists).absolute())
    return decode_classes(images.find(place, split, images.Settings(lists)), image)


def read_mosaic(path: Path) -> UInt8[np.ndarray, "600 32 32 3"]:
    """The images of a class, row by row. Raises: `BadData` for a file that is no such mosaic."""
    data = path.read_bytes()
    if webp_size(data) != (COLUMNS * SIDE, ROWS * SIDE):
        raise BadData(f"{path.name!r} is no WebP mosaic of {COLUMNS * SIDE} x {ROWS * SIDE} pixels.")
    try:
        whole = ImageCodec(_MOSAIC, Limits()).decode(RawInput("bytes", data, "")).tensor.numpy()
    except ImprintError as error:
        raise BadData(f"The mosaic {path.name!r} cannot be read: {error}") from error
    cells = whole.reshape(3, ROWS, SIDE, COLUMNS, SIDE).transpose(1, 3, 2, 4, 0)
    return np.ascontiguousarray(cells.reshape(ROWS * COLUMNS, SIDE, SIDE, 3))


def read_original(folder: Path) -> dict[str, UInt8[np.ndarray, "_ 32 32 3"]]:
    """The images of every class from the authors' `train.bin`, then `test.bin`: 2 bytes of labels, then the planes.

    Raises: `BadData` for files of another size; `OSError` where one is not there.
    """
    names = (folder / "fine_label_names.txt").read_text(encoding="utf-8").split()
    raw = b"".join((folder / f"{part}.bin").read_bytes() for part in ("train", "test"))
    if len(raw) % _ROW_BYTES:
        raise BadData(f"train.bin and test.bin do not hold whole images of {_ROW_BYTES} bytes.")
    rows = np.frombuffer(raw, dtype=np.uint8).reshape(-1, _ROW_BYTES)
    pixels = rows[:, 2:].reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return {name: np.ascontiguousarray(pixels[rows[:, 1] == label]) for label, name in enumerate(names)}


def _usual_lists(folder: Path) -> str:
    if (folder / SPLIT_FILE).is_file():
        return SPLIT_FILE
    return USUAL_LISTS if (folder / USUAL_LISTS).parent.is_dir() else "folders"


def _arrays(folder: Path) -> Mapping[str, Path | UInt8[np.ndarray, "_ 32 32 3"]] | None:
    """What holds the pixels of each class; `None` where the images are files of their own."""
    if (folder / ORIGINAL).is_dir():
        return read_original(folder / ORIGINAL)
    return {path.stem: path for path in folder.glob("*.webp")} or None


def _pixels(held: Path | UInt8[np.ndarray, "n 32 32 3"]) -> UInt8[np.ndarray, "n 32 32 3"]:
    return read_mosaic(held) if isinstance(held, Path) else held
