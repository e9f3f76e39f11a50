"""Folders of image files to pools."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import torch

from app.codecs import Codec, DecodedInput
from app.codecs.image import ImageCodec
from app.training.datasets._splits import quoted
from app.training.decoding import decode_files
from app.training.errors import BadData, BadRecipe
from app.training.sampler import Pool

_JUNK: Final = frozenset({"thumbs.db", "desktop.ini", "__macosx"})
_logger = logging.getLogger(__name__)


def image_codec(codec: Codec, what: str) -> ImageCodec:
    """The codec, where it reads images. Raises: `BadRecipe` for one that does not."""
    if not isinstance(codec, ImageCodec):
        raise BadRecipe(f"The data set {what!r} holds images; the backbone of the recipe reads {codec.modality}s.")
    return codec


def class_folders(folder: Path) -> dict[str, list[Path]]:
    """The files of each folder in `folder`, at any depth, in the order of their names; the folder's name is the class.

    Passed over are hidden files and what operating systems leave behind.
    """
    folders = sorted(one for one in folder.iterdir() if one.is_dir() and not _is_junk(one.name))
    files = {one.name: sorted(file for file in one.rglob("*") if file.is_file()) for one in folders}
    return {
        name: [file for file in every if not any(map(_is_junk, file.relative_to(folder).parts))]
        for name, every in files.items()
    }


def decode_classes(
    files: Mapping[str, Sequence[Path]], codec: ImageCodec, *, skip_unreadable: bool = False, once: bool = False
) -> Pool:
    """Decode the images of each class: uint8 (n, channels, height, width).

    With `once`, the same file a second time in a class is left out: it could be its own query. With
    `skip_unreadable`, files that are no image are left out with a warning that names them.
    Raises: `BadData` that names unreadable files, or a class without an image.
    """
    flat = [(label, file) for label, name in enumerate(files) for file in files[name]]
    how = codec.preprocessing
    pixels = torch.empty(len(flat), how.channels, how.height, how.width, dtype=torch.uint8)
    labels: list[int] = []
    bad: list[str] = []
    seen: set[tuple[int, str]] = set()
    for (label, file), result in zip(flat, decode_files(codec, [file for _, file in flat]), strict=True):
        if not isinstance(result, DecodedInput):
            bad.append(f"{file.parent.name}/{file.name} ({result})")
        elif not once or (label, result.sha256) not in seen:
            seen.add((label, result.sha256))
            pixels[len(labels)] = result.tensor
            labels.append(label)
    _report(bad, skip_unreadable=skip_unreadable)
    filled = set(labels)
    empty = [name for label, name in enumerate(files) if label not in filled]
    if empty:
        raise BadData(f"Classes without an image: {quoted(empty)}.")
    if repeated := len(flat) - len(bad) - len(labels):
        _logger.warning("left out %d image files that are another's copy under the same class", repeated)
    return Pool(pixels[: len(labels)], torch.tensor(labels, dtype=torch.int64), tuple(files))


def _report(bad: Sequence[str], *, skip_unreadable: bool) -> None:
    if bad and not skip_unreadable:
        raise BadData(
            f"{len(bad)} files cannot be read as images: {quoted(bad)}. Remove them, or set skip_unreadable = true in "
            "the data's settings."
        )
    if bad:
        _logger.warning("left out %d files that cannot be read as images: %s", len(bad), quoted(bad))


def _is_junk(name: str) -> bool:
    return name.startswith(".") or name.lower() in _JUNK
