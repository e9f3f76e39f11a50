"""Any folder of images that holds a folder for each class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from app.codecs import Codec
from app.training.datasets._images import class_folders, decode_classes, image_codec
from app.training.datasets._splits import SPLIT_NAMES, SplitSettings, classes_of
from app.training.errors import BadData
from app.training.sampler import Pool

Files = Mapping[str, Sequence[Path]]
"""The files of each class."""


@dataclass(frozen=True)
class Settings(SplitSettings):
    """Of a folder of images."""

    skip_unreadable: bool = field(default=False, metadata={"description": "Leave out files that are no image."})


def load(folder: Path, split: str, codec: Codec, settings: Settings) -> Pool:
    """The classes of one split: uint8 (n, channels, height, width), as many as each class has.

    Layouts: `<class>/<image>`, or `train|val|test/<class>/<image>`; files may lie deeper. A file that is twice in a
    class counts once. Raises: `BadData` for too few classes, a class in two splits, unreadable files (by name);
    `OSError`.
    """
    image = image_codec(codec, "images")
    return decode_classes(find(folder, split, settings), image, skip_unreadable=settings.skip_unreadable, once=True)


def find(folder: Path, split: str, settings: Settings) -> Files:
    """The files of each class of a split. Raises: `BadData`, `OSError`."""
    top = class_folders(folder)
    in_splits = "train" in top and set(top) <= set(SPLIT_NAMES)
    parts = {one: class_folders(folder / one) for one in top} if in_splits else {"": top}
    files: dict[str, list[Path]] = {}
    for classes in parts.values():
        for name, found in classes.items():
            files.setdefault(name, []).extend(found)
    if not files:
        raise BadData(f"{folder.name!r} holds no folders of images: put each class into a folder of its own.")
    by_folder = {part: list(classes) for part, classes in parts.items()} if in_splits else None
    return {name: files[name] for name in classes_of(split, folder, settings, list(files), by_folder)}
