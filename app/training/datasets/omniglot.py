"""Omniglot: 1,623 handwritten characters of 50 alphabets, 20 people each (Lake, Salakhutdinov, Tenenbaum, 2015)."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from app.training.sampler import Pool

SIDE_PIXELS = 28
DRAWINGS_EACH = 20


def load(folder: Path, split: str) -> Pool:
    """The classes that `vinyals_split/<split>.txt` lists, a line 'Alphabet/characterNN/rotNNN' each.

    The drawings come from `omniglot_28.npz` (`images` uint8 (characters, 20, 28, 28), ink 255; `classes`
    'Alphabet/characterNN') or, without it, from the authors' own `images_background` and `images_evaluation`.
    Pool: uint8 (classes, 20, 1, 28, 28); rotations are counter-clockwise, and classes of their own.
    Raises: `OSError` where a file is not there; `KeyError` for a character that the drawings lack.
    """
    names = (folder / "vinyals_split" / f"{split}.txt").read_text(encoding="utf-8").split()
    packed = folder / "omniglot_28.npz"
    drawings = _from_archive(packed) if packed.is_file() else _from_folders(folder)
    turned = []
    for name in names:
        character, _, rotation = name.rpartition("/rot")
        turned.append(np.rot90(drawings[character], int(rotation) // 90, axes=(1, 2)))
    return Pool(torch.from_numpy(np.stack(turned))[:, :, None])


def _from_archive(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        return dict(zip(arrays["classes"].tolist(), arrays["images"], strict=True))


def _from_folders(folder: Path) -> dict[str, np.ndarray]:
    """Read `images_background/Alphabet/characterNN/*.png` (105x105, black on white), shrunk by area."""
    drawings = {}
    for part in ("images_background", "images_evaluation"):
        for character in sorted((folder / part).glob("*/character*")):
            files = sorted(character.glob("*.png"))[:DRAWINGS_EACH]
            drawings[f"{character.parent.name}/{character.name}"] = np.stack([_shrunk(file) for file in files])
    if not drawings:
        raise FileNotFoundError(f"neither omniglot_28.npz nor images_background is in the folder {folder.name!r}")
    return drawings


def _shrunk(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        grey = image.convert("L").resize((SIDE_PIXELS, SIDE_PIXELS), Image.Resampling.BOX)
    return 255 - np.asarray(grey)
