"""Which classes belong to which split. A class belongs to one: that is what makes an accuracy honest."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from app.learners._settings import LearnerSettings
from app.training.errors import BadData

Splits = Mapping[str, Sequence[str]]
"""The names of the classes of each split."""

SPLIT_FILE: Final = "split.json"
SPLIT_NAMES: Final = ("train", "val", "valid", "validation", "test")
"""What splits are called by those who publish data; no class may be in two of these."""
LEAST_CLASSES: Final = 2
"""A split with fewer can have no episode."""


@dataclass(frozen=True)
class SplitSettings(LearnerSettings):
    """Of every data set whose classes can be split anew."""

    classes: str = field(
        default="",
        metadata={
            "description": "What says which class is in which split: a JSON file; text files, as splits/{split}.txt; "
            "folders (train, val, test); or seeded (by chance). Empty: split.json, else folders, else seeded."
        },
    )
    split_seed: int = field(default=0, metadata={"description": "Decides which classes a seeded split takes."})
    val_share: float = field(
        default=0.2, metadata={"description": "The share of the classes that validate.", "minimum": 0, "maximum": 0.9}
    )
    test_share: float = field(
        default=0.2, metadata={"description": "The share of the classes that test.", "minimum": 0, "maximum": 0.9}
    )


def classes_of(
    split: str, folder: Path, settings: SplitSettings, names: Sequence[str], folders: Splits | None = None
) -> list[str]:
    """The classes of one split, out of all `names`; the split "all" is those.

    `folders` are the splits that the data's own folders make. Raises: `BadData` for a split that is not there, and as
    `listed` and `seeded`.
    """
    if split == "all":
        return sorted(names)
    splits = _found(folder, settings, names, folders)
    if not splits.get(split):
        sizes = ", ".join(f"{name} ({len(classes)} classes)" for name, classes in splits.items())
        raise BadData(f"There is no split {split!r} in {folder.name!r}; the splits are {sizes} and all.")
    return list(splits[split])


def listed(path: Path, known: Sequence[str]) -> Splits:
    """Splits from a JSON file, `{"train": ["name", ...], "val": [...], "test": [...]}`, or from text files.

    For text files the path holds "{split}", and each line of the file of a split is a class.
    Raises: `BadData` for another content, a class in two splits, or one that is not among the `known`;
    `OSError` where no such file is there.
    """
    if "{split}" in path.name:
        before, _, after = path.name.partition("{split}")
        found = sorted(path.parent.glob(f"{before}*{after}"))
        named = {one.name[len(before) : len(one.name) - len(after)]: one for one in found}
        splits: Splits = {name: _lines(one) for name, one in named.items()}
        if not splits:
            raise FileNotFoundError(f"There is no file {path.name!r} with the classes of a split.")
    else:
        splits = _from_json(path)
    _check_disjoint(splits)
    missing = sorted({name for names in splits.values() for name in names} - set(known))
    if missing:
        raise BadData(f"{path.name!r} names classes that are not there: {quoted(missing)}.")
    return splits


def seeded(names: Sequence[str], seed: int, val_share: float, test_share: float) -> Splits:
    """Split classes by chance: the same names and seed give the same splits, on every machine.

    Each class has a place that follows from its name and the seed alone, so that one class more or less moves few
    others. Raises: `BadData` for too few classes.
    """
    shares = {"val": val_share, "test": test_share}
    wanted = {split: max(LEAST_CLASSES, round(share * len(names))) for split, share in shares.items() if share}
    least = LEAST_CLASSES * (len(wanted) + 1)
    if len(names) - sum(wanted.values()) < LEAST_CLASSES:
        raise BadData(
            f"{len(names)} classes are too few to split into {', '.join(['train', *wanted])}: each needs "
            f"{LEAST_CLASSES}, so {least} or more are needed, and the shares must leave {LEAST_CLASSES} to train on."
        )
    order = sorted(names, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
    splits: dict[str, list[str]] = {}
    for split, count in wanted.items():
        splits[split], order = sorted(order[:count]), order[count:]
    return {"train": sorted(order), **splits}


def quoted(names: Sequence[str], most: int = 20) -> str:
    """Names for an error: quoted, and no more than a reader wants."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(repr(name) for name in names[:most]) + more


def _found(folder: Path, settings: SplitSettings, names: Sequence[str], folders: Splits | None) -> Splits:
    """The splits, from where the settings say or what is there."""
    source = settings.classes
    if not source:
        usual = "folders" if folders else "seeded"
        source = SPLIT_FILE if (folder / SPLIT_FILE).is_file() else usual
    if source == "seeded":
        return seeded(names, settings.split_seed, settings.val_share, settings.test_share)
    if source != "folders":
        return listed(folder / source, names)
    if not folders:
        raise BadData(f"The data in {folder.name!r} is not split into folders named train, val and test.")
    _check_disjoint(folders)
    return folders


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _from_json(path: Path) -> Splits:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadData(f"{path.name!r} is not JSON: {error}.") from error
    lists = isinstance(raw, dict) and all(
        isinstance(names, list) and all(isinstance(name, str) for name in names) for names in raw.values()
    )
    if not lists:
        raise BadData(f"{path.name!r} must hold an object with a list of class names for each split.")
    splits: Splits = raw
    return splits


def _check_disjoint(splits: Splits) -> None:
    """A split of another name may be a union of these ("trainval")."""
    owner: dict[str, str] = {}
    for split in SPLIT_NAMES:
        for name in splits.get(split, ()):
            if name in owner:
                where = f"twice in {split!r}" if owner[name] == split else f"in {owner[name]!r} and in {split!r}"
                raise BadData(
                    f"The class {name!r} is {where}. Splits are by class, as training must not see the classes that "
                    'judge; the setting classes = "seeded" makes new ones of all classes.'
                )
            owner[name] = split
