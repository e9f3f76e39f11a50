"""Omniglot: 1,623 handwritten characters of 50 alphabets, 20 people each (Lake, Salakhutdinov, Tenenbaum, 2015)."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from app.codecs import Codec
from app.codecs.image import ImageCodec
from app.learners._settings import LearnerSettings
from app.training.datasets._images import decode_classes, image_codec
from app.training.datasets._splits import quoted
from app.training.decoding import as_served
from app.training.errors import BadData
from app.training.sampler import Pool

PARTS: Final = {"background": "images_background", "evaluation": "images_evaluation"}
ROTATIONS: Final = ("rot000", "rot090", "rot180", "rot270")


@dataclass(frozen=True)
class Settings(LearnerSettings):
    """Of Omniglot."""

    lists: str = field(default="vinyals_split", metadata={"description": "The folder with the lists of the splits."})


def load(folder: Path, split: str, codec: Codec, settings: Settings) -> Pool:
    """The classes that `<lists>/<split>.txt` lists, a line 'Alphabet/characterNN/rotNNN' each.

    The drawings come from `omniglot_28.npz` (`images` uint8 (characters, 20, 28, 28), ink 255; `classes`
    'Alphabet/characterNN'; `part` background or evaluation) or, without it, from the authors' own `images_background`
    and `images_evaluation`. Without a list of that name, the splits "background" and "evaluation" are the authors'
    own, each character in four rotations. Pool: uint8 (n, channels, height, width), 20 drawings a class; rotations
    are counter-clockwise, and classes of their own.
    Raises: `OSError` where a file is not there; `BadData` for a character that the drawings lack.
    """
    image = image_codec(codec, "omniglot")
    path = folder / settings.lists / f"{split}.txt"
    names = path.read_text(encoding="utf-8").split() if split not in PARTS or path.is_file() else None
    wanted = None if names is None else list(dict.fromkeys(name.rpartition("/")[0] for name in names))
    packed = folder / "omniglot_28.npz"
    read = _from_archive if packed.is_file() else _from_folders
    drawings = read(folder, wanted, split, image)
    if names is None:
        names = [f"{character}/{rotation}" for character in drawings for rotation in ROTATIONS]
    turned = [_turned(drawings, name) for name in names]
    return Pool.of_classes(turned, names)


def _turned(drawings: dict[str, Tensor], name: str) -> Tensor:
    character, _, rotation = name.rpartition("/rot")
    return torch.rot90(drawings[character], int(rotation) // 90, dims=(-2, -1))


def _from_archive(folder: Path, wanted: list[str] | None, split: str, codec: ImageCodec) -> dict[str, Tensor]:
    with np.load(folder / "omniglot_28.npz", allow_pickle=False) as arrays:
        names, images = arrays["classes"].tolist(), arrays["images"]
        parts = arrays["part"] if wanted is None else None
    rows = {name: row for row, name in enumerate(names)}
    wanted = [name for name in names if parts[rows[name]] == split] if parts is not None else wanted or []
    _check_known(wanted, rows)
    chosen = images[[rows[name] for name in wanted]]
    served: UInt8[Tensor, "..."] = as_served(chosen.reshape(-1, *chosen.shape[2:], 1), codec)
    return dict(zip(wanted, served.reshape(*chosen.shape[:2], *served.shape[1:]), strict=True))


def _from_folders(folder: Path, wanted: list[str] | None, split: str, codec: ImageCodec) -> dict[str, Tensor]:
    """Read `images_background/Alphabet/characterNN/*.png` (105x105, black on white)."""
    parts = [PARTS[split]] if wanted is None else list(PARTS.values())
    found = {f"{one.parent.name}/{one.name}": one for part in parts for one in sorted((folder / part).glob("*/char*"))}
    if not found:
        raise FileNotFoundError(f"neither omniglot_28.npz nor images_background is in the folder {folder.name!r}")
    wanted = list(found) if wanted is None else wanted
    _check_known(wanted, found)
    pool = decode_classes({name: sorted(found[name].glob("*.png")) for name in wanted}, codec)
    return dict(zip(wanted, torch.split(pool.inputs, pool.counts.tolist()), strict=True))


def _check_known(wanted: list[str], known: dict[str, int] | dict[str, Path]) -> None:
    missing = [name for name in wanted if name not in known]
    if missing:
        raise BadData(f"Omniglot's drawings lack the characters {quoted(missing)}.")
