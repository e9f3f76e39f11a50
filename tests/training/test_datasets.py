from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from app.core.errors import UnknownName
from app.training import datasets


@pytest.fixture
def drawings() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 20, 28, 28), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path, drawings: np.ndarray) -> Path:
    split = tmp_path / "omniglot" / "vinyals_split"
    split.mkdir(parents=True)
    (split / "train.txt").write_text("Runic/character02/rot000\nRunic/character01/rot090\n")
    np.savez(
        tmp_path / "omniglot" / "omniglot_28.npz",
        images=drawings,
        classes=np.array(["Runic/character01", "Runic/character02"]),
    )
    return tmp_path


def test_the_split_decides_classes_and_rotations(folder: Path, drawings: np.ndarray) -> None:
    pool = datasets.load("omniglot", folder, "train")
    assert pool.inputs.shape == (2, 20, 1, 28, 28)
    assert np.array_equal(pool.inputs[0, :, 0], drawings[1])
    assert np.array_equal(pool.inputs[1, :, 0], np.rot90(drawings[0], axes=(1, 2)))


def test_the_authors_own_folders_are_read_and_inverted(tmp_path: Path) -> None:
    for number in (1, 2):
        character = tmp_path / "omniglot" / "images_background" / "Runic" / f"character0{number}"
        character.mkdir(parents=True)
        for drawer in range(20):
            page = Image.new("1", (105, 105), 1)
            ImageDraw.Draw(page).rectangle((0, 0, 104, 52), fill=0)
            page.save(character / f"{number:04d}_{drawer + 1:02d}.png")
    split = tmp_path / "omniglot" / "vinyals_split"
    split.mkdir()
    (split / "val.txt").write_text("Runic/character01/rot000\nRunic/character02/rot180\n")
    upright, turned = datasets.load("omniglot", tmp_path, "val").inputs
    assert bool((upright[..., :14, :] == 255).all())
    assert bool((upright[..., 15:, :] == 0).all())
    assert torch.equal(turned, upright.flip(-1, -2))


def test_missing_data_is_said_so(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"val\.txt"):
        datasets.load("omniglot", folder, "val")
    (folder / "omniglot" / "omniglot_28.npz").unlink()
    with pytest.raises(FileNotFoundError, match="images_background"):
        datasets.load("omniglot", folder, "train")


def test_an_unknown_data_set_is_refused_by_name(folder: Path) -> None:
    with pytest.raises(UnknownName, match="omniglott"):
        datasets.load("omniglott", folder, "train")


@pytest.mark.data
def test_the_splits_of_omniglot_are_disjoint_and_complete(data_dir: Path) -> None:
    names = {
        split: set((data_dir / "omniglot" / "vinyals_split" / f"{split}.txt").read_text().split())
        for split in ("train", "val", "test")
    }
    assert [len(one) for one in names.values()] == [4112, 688, 1692]
    assert len(set.union(*names.values())) == 6492
    assert datasets.load("omniglot", data_dir, "val").inputs.shape == (688, 20, 1, 28, 28)
