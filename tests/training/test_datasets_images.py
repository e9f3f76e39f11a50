"""Omniglot, CIFAR-FS and folders of images; synthetic ones, and the real ones where they are."""

import io
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from app.codecs import Codec, RawInput
from app.codecs.image import ImageCodec
from app.core.limits import Limits
from app.training import datasets
from app.training.data_section import PARTS, Data
from app.training.datasets.cifar_fs import read_mosaic
from app.training.decoding import as_served, codec_of
from app.training.errors import BadData, BadRecipe

GLYPH = codec_of(
    "image",
    {
        "height": 28,
        "width": 28,
        "channels": 1,
        "resize": "stretch",
        "interpolation": "box",
        "polarity": "ink-bright",
    },
)
TINY = codec_of("image", {"height": 32, "width": 32, "channels": 3, "resize": "stretch"})
SMALL = codec_of("image", {"height": 6, "width": 6, "channels": 3, "resize": "stretch"})


def _drawings(*shape: int) -> np.ndarray:
    """Sparse ink of 255 and less on a black page."""
    rng = np.random.default_rng(0)
    ink = rng.integers(0, 256, (*shape, 28, 28)) * (rng.random((*shape, 28, 28)) < 0.1)
    ink[..., 5, 5] = 255
    return ink.astype(np.uint8)


def _served(codec: Codec, pixels: np.ndarray) -> Tensor:
    """What the server makes of an image that is sent as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return codec.decode(RawInput("bytes", file.getvalue(), "")).tensor


def _photo(path: Path, colour: object = "red", size: tuple[int, int] = (9, 7)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)  # type: ignore[arg-type]


# Pixels that skip the codec.


def test_drawings_that_skip_the_codec_are_what_it_would_make_of_them() -> None:
    rng = np.random.default_rng(1)
    sparse = _drawings(6)
    pale = (sparse * 0.6).astype(np.uint8)  # its ink does not reach 255
    on_white, grey_page = 255 - sparse, np.maximum(sparse, 20)
    noise = rng.integers(0, 256, (6, 28, 28), dtype=np.uint8)
    dense = np.where(rng.random((6, 28, 28)) < 0.55, 255, 0).astype(np.uint8)
    framed = sparse.copy()
    framed[:, [0, -1]] = framed[:, :, [0, -1]] = 255
    drawings = np.concatenate([sparse, pale, on_white, grey_page, noise, dense, framed, np.zeros_like(sparse)])
    assert isinstance(GLYPH, ImageCodec)
    served = as_served(drawings[..., None], GLYPH)
    assert torch.equal(served, torch.stack([_served(GLYPH, one) for one in drawings]))
    assert torch.equal(served[:6, 0], torch.from_numpy(sparse))


@pytest.mark.parametrize(
    "preprocessing",
    [
        {"height": 8, "width": 8, "channels": 3, "resize": "stretch"},
        {"height": 8, "width": 8, "channels": 1, "resize": "stretch"},
        {"height": 12, "width": 12, "channels": 3, "resize": "stretch", "interpolation": "bilinear"},
        {"height": 8, "width": 8, "channels": 3, "resize": 10, "crop": "center"},
    ],
)
def test_photographs_as_pixels_are_what_the_codec_makes_of_the_file(preprocessing: dict[str, object]) -> None:
    codec = ImageCodec(preprocessing, Limits())
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    assert torch.equal(as_served(pixels, codec), torch.stack([_served(codec, one) for one in pixels]))


def test_a_preprocessing_that_cannot_be_is_the_recipes_fault(tmp_path: Path) -> None:
    with pytest.raises(BadRecipe, match=r"card\.preprocessing.*missing keys"):
        codec_of("image", {})
    with pytest.raises(BadRecipe, match="tokenizer"):
        codec_of("text", {"max_tokens": 8})
    (tmp_path / "images").mkdir()
    with pytest.raises(BadRecipe, match="the backbone of the recipe reads vectors"):
        datasets.load(Data("images"), tmp_path, "train", codec_of("vector", {}))


# Omniglot.


@pytest.fixture
def drawings() -> np.ndarray:
    return _drawings(3, 20)


@pytest.fixture
def omniglot(tmp_path: Path, drawings: np.ndarray) -> Path:
    split = tmp_path / "omniglot" / "vinyals_split"
    split.mkdir(parents=True)
    (split / "train.txt").write_text("Runic/character02/rot000\nRunic/character01/rot090\n")
    np.savez(
        tmp_path / "omniglot" / "omniglot_28.npz",
        images=drawings,
        classes=np.array(["Runic/character01", "Runic/character02", "Greek/character01"]),
        part=np.array(["background", "background", "evaluation"]),
    )
    return tmp_path


def test_the_split_decides_characters_and_rotations(omniglot: Path, drawings: np.ndarray) -> None:
    pool = datasets.load(Data("omniglot"), omniglot, "train", GLYPH)
    assert pool.names == ("Runic/character02/rot000", "Runic/character01/rot090")
    assert pool.inputs.shape == (40, 1, 28, 28)
    assert np.array_equal(pool.inputs[:20, 0], drawings[1])
    assert np.array_equal(pool.inputs[20:, 0], np.rot90(drawings[0], axes=(1, 2)))


def test_the_authors_own_parts_come_in_four_rotations(omniglot: Path, drawings: np.ndarray) -> None:
    data = Data("omniglot", train="background", validation="evaluation", test="evaluation")
    pool = datasets.load(data, omniglot, "validation", GLYPH)
    assert pool.names == tuple(f"Greek/character01/rot{turn}" for turn in ("000", "090", "180", "270"))
    assert np.array_equal(pool.inputs[60:, 0], np.rot90(drawings[2], 3, axes=(1, 2)))


def test_mirrored_characters_are_classes_of_their_own(omniglot: Path, drawings: np.ndarray) -> None:
    pool = datasets.load(Data("omniglot", mirror_classes=True), omniglot, "train", GLYPH)
    assert pool.counts.tolist() == [20] * 4
    assert np.array_equal(pool.inputs[40:60, 0], drawings[1][..., ::-1])


def test_the_authors_own_folders_are_read_as_the_server_reads_drawings(tmp_path: Path) -> None:
    for number in (1, 2):
        character = tmp_path / "omniglot" / "images_background" / "Runic" / f"character0{number}"
        character.mkdir(parents=True)
        for drawer in range(20):
            page = Image.new("1", (105, 105), 1)
            ImageDraw.Draw(page).rectangle((20 + drawer, 0, 40 + drawer, 52), fill=0)
            page.save(character / f"{number:04d}_{drawer + 1:02d}.png")
    split = tmp_path / "omniglot" / "vinyals_split"
    split.mkdir()
    (split / "val.txt").write_text("Runic/character01/rot000\nRunic/character02/rot180\n")
    data = Data("omniglot")
    upright, turned = datasets.load(data, tmp_path, "validation", GLYPH).inputs.split(20)
    assert bool((upright[:10, :, :13, 8] == 255).all())
    assert bool((upright[..., 15:, :] == 0).all())
    assert torch.equal(turned, upright.flip(-1, -2))
    assert isinstance(GLYPH, ImageCodec)
    assert torch.equal(as_served(upright[:, 0, :, :, None].numpy(), GLYPH), upright)


def test_missing_characters_and_files_are_said_so(omniglot: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"val\.txt"):
        datasets.load(Data("omniglot"), omniglot, "validation", GLYPH)
    (omniglot / "omniglot" / "vinyals_split" / "val.txt").write_text("Elvish/character01/rot000\n")
    with pytest.raises(BadData, match="Elvish/character01"):
        datasets.load(Data("omniglot"), omniglot, "validation", GLYPH)
    (omniglot / "omniglot" / "omniglot_28.npz").unlink()
    with pytest.raises(FileNotFoundError, match="images_background"):
        datasets.load(Data("omniglot"), omniglot, "train", GLYPH)


# CIFAR-FS.


@pytest.fixture
def cifar(tmp_path: Path) -> Path:
    """Two mosaics of random pixels."""
    folder = tmp_path / "cifar_fs"
    folder.mkdir()
    for seed, name in enumerate(("apple", "train")):
        pixels = np.random.default_rng(seed).integers(0, 256, (800, 768, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.webp", lossless=True, method=0)
    (folder / "split.json").write_text(json.dumps({"train": ["apple"], "val": ["train"], "test": []}))
    return tmp_path


def test_the_images_of_a_mosaic_are_its_cells_row_by_row(cifar: Path) -> None:
    pool = datasets.load(Data("cifar_fs"), cifar, "train", TINY)
    assert pool.names == ("apple",)
    assert pool.inputs.shape == (600, 3, 32, 32)
    with Image.open(cifar / "cifar_fs" / "apple.webp") as mosaic:
        for place in (0, 1, 23, 24, 599):
            left, top = place % 24 * 32, place // 24 * 32
            cell = np.asarray(mosaic.convert("RGB").crop((left, top, left + 32, top + 32)))
            assert np.array_equal(pool.inputs[place].permute(1, 2, 0), cell)


def test_the_usual_layouts_of_cifar_fs_give_the_same_pool_as_mosaics(cifar: Path, tmp_path: Path) -> None:
    usual, original, folders = (tmp_path / name / "cifar_fs" for name in ("usual", "original", "folders"))
    (usual / "splits" / "bertinetto").mkdir(parents=True)
    (original / "cifar-100-binary").mkdir(parents=True)
    rows = []
    for label, (name, split) in enumerate([("apple", "train"), ("train", "val")]):
        (usual / "splits" / "bertinetto" / f"{split}.txt").write_text(f"{name}\n")
        for place, pixels in enumerate(read_mosaic(cifar / "cifar_fs" / f"{name}.webp")[:30]):
            for folder in (usual / "data" / name, folders / split / name):
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(folder / f"{place:03d}.png")
            rows.append(bytes([9, label]) + pixels.transpose(2, 0, 1).tobytes())
    (original / "cifar-100-binary" / "train.bin").write_bytes(b"".join(rows[:20] + rows[30:]))
    (original / "cifar-100-binary" / "test.bin").write_bytes(b"".join(rows[20:30]))
    (original / "cifar-100-binary" / "fine_label_names.txt").write_text("apple\ntrain\n")
    (original / "split.json").write_text('{"train": ["apple"], "val": ["train"]}')
    for part in ("train", "validation"):
        wanted = datasets.load(Data("cifar_fs"), cifar, part, TINY)  # type: ignore[arg-type]
        for root in (usual, original, folders):
            pool = datasets.load(Data("cifar_fs"), root.parent, part, TINY)  # type: ignore[arg-type]
            assert pool.names == wanted.names
            assert torch.equal(pool.inputs, wanted.inputs[:30])


def test_a_mosaic_of_another_size_is_refused_by_name(cifar: Path) -> None:
    Image.new("RGB", (64, 64)).save(cifar / "cifar_fs" / "apple.webp", lossless=True)
    with pytest.raises(BadData, match=r"apple\.webp.*768 x 800"):
        datasets.load(Data("cifar_fs"), cifar, "train", TINY)
    whole = (cifar / "cifar_fs" / "train.webp").read_bytes()
    (cifar / "cifar_fs" / "train.webp").write_bytes(whole[:5000])
    with pytest.raises(BadData, match=r"train\.webp.*corrupt"):
        datasets.load(Data("cifar_fs"), cifar, "validation", TINY)


# Any folder.


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Seven classes of 1 to 7 photographs, some deeper down, with what computers leave behind."""
    for label in range(7):
        for number in range(label + 1):
            deeper = "more/" if number % 2 else ""
            _photo(tmp_path / "images" / f"kind {label}" / f"{deeper}{number}.png", (label * 30, number * 30, 9))
    (tmp_path / "images" / "kind 0" / ".hidden").write_bytes(b"x")
    (tmp_path / "images" / "kind 0" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "images" / ".cache").mkdir()
    (tmp_path / "images" / "readme.txt").write_text("not a class")
    return tmp_path


def test_a_folder_of_folders_is_split_by_class_and_decoded_as_in_serving(photos: Path) -> None:
    pools = [datasets.load(Data("images"), photos, part, SMALL) for part in PARTS]
    assert [len(pool.names) for pool in pools] == [3, 2, 2]
    counts = {name: n for pool in pools for name, n in zip(pool.names, pool.counts.tolist(), strict=True)}
    assert counts == {f"kind {label}": label + 1 for label in range(7)}
    for pool in pools:
        for at, name in enumerate(pool.names):
            first = pool.inputs[pool.starts[at]]
            sent = (photos / "images" / name / "0.png").read_bytes()
            assert torch.equal(first, SMALL.decode(RawInput("bytes", sent, "")).tensor)


def test_folders_named_for_splits_are_the_splits(tmp_path: Path) -> None:
    for split, name in (("train", "cat"), ("train", "dog"), ("val", "emu"), ("test", "fox")):
        _photo(tmp_path / "pets" / split / name / "1.jpg")
    data = Data("images", "pets")
    assert [datasets.load(data, tmp_path, part, SMALL).names for part in PARTS] == [("cat", "dog"), ("emu",), ("fox",)]
    with pytest.raises(BadData, match=r"no split 'valid'.*train \(2 classes\), val"):
        datasets.load(Data("images", "pets", validation="valid"), tmp_path, "validation", SMALL)


def test_a_class_that_is_in_two_split_folders_is_refused_unless_all_are_split_anew(tmp_path: Path) -> None:
    for number in range(6):
        for split in ("train", "test"):
            _photo(tmp_path / "images" / split / f"kind {number}" / f"{split}.jpg", (number, len(split), 0))
    with pytest.raises(BadData, match=r"'kind 0' is in 'train' and in 'test'.*seeded"):
        datasets.load(Data("images"), tmp_path, "train", SMALL)
    pool = datasets.load(Data("images", settings={"classes": "seeded"}), tmp_path, "train", SMALL)
    assert pool.counts.tolist() == [2, 2]


def test_unreadable_files_are_reported_by_name_or_left_out(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    (photos / "images" / "kind 3" / "notes.txt").write_text("hello")
    whole = (photos / "images" / "kind 5" / "0.png").read_bytes()
    (photos / "images" / "kind 5" / "cut.png").write_bytes(whole[:45])
    every = Data("images", train="", test="all")
    with pytest.raises(BadData, match=r"2 files .*kind 3/notes\.txt .*kind 5/cut\.png .*skip_unreadable"):
        datasets.load(every, photos, "test", SMALL)
    skipping = Data("images", train="", test="all", settings={"skip_unreadable": True})
    with caplog.at_level(logging.WARNING):
        pool = datasets.load(skipping, photos, "test", SMALL)
    assert pool.counts.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert "kind 3/notes.txt" in caplog.text


def test_the_same_file_twice_in_a_class_counts_once(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    copied = (photos / "images" / "kind 6" / "0.png").read_bytes()
    (photos / "images" / "kind 6" / "copy of 0.png").write_bytes(copied)
    (photos / "images" / "kind 5" / "from 6.png").write_bytes(copied)
    with caplog.at_level(logging.WARNING):
        pool = datasets.load(Data("images", train="", test="all"), photos, "test", SMALL)
    assert pool.counts.tolist() == [1, 2, 3, 4, 5, 7, 7]
    assert "left out 1 image" in caplog.text


def test_folders_without_images_and_too_few_classes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(BadData, match="each class into a folder of its own"):
        datasets.load(Data("images"), tmp_path, "train", SMALL)
    for number in range(5):
        _photo(tmp_path / "images" / f"kind {number}" / "1.png")
    with pytest.raises(BadData, match=r"5 classes are too few.*6 or more"):
        datasets.load(Data("images"), tmp_path, "train", SMALL)
    (tmp_path / "images" / "empty").mkdir()
    with pytest.raises(BadData, match="without an image: 'empty'"):
        datasets.load(Data("images", train="", test="all"), tmp_path, "test", SMALL)


def test_lists_decide_the_splits_of_any_folder(photos: Path) -> None:
    lists = {"train": ["kind 1", "kind 6"], "val": ["kind 2"], "test": ["kind 0"]}
    (photos / "images" / "split.json").write_text(json.dumps(lists))
    assert [list(datasets.load(Data("images"), photos, part, SMALL).names) for part in PARTS] == list(lists.values())


# The real ones.


@pytest.mark.data
def test_the_splits_of_omniglot_are_disjoint_and_complete(data_dir: Path) -> None:
    pools = [datasets.load(Data("omniglot"), data_dir, part, GLYPH) for part in PARTS]
    assert [len(pool.names) for pool in pools] == [4112, 688, 1692]
    assert len({name for pool in pools for name in pool.names}) == 6492
    assert all(bool((pool.counts == 20).all()) for pool in pools)


@pytest.mark.data
def test_packed_drawings_are_what_the_server_makes_of_their_files(data_dir: Path) -> None:
    with np.load(data_dir / "omniglot" / "omniglot_28.npz") as arrays:
        every = arrays["images"].reshape(-1, 28, 28)
    pale = every[every.max((1, 2)) < 255]
    some = np.concatenate([every[np.random.default_rng(0).choice(len(every), 500, replace=False)], pale])
    assert len(pale) == 148
    assert isinstance(GLYPH, ImageCodec)
    served = as_served(some[..., None], GLYPH)
    assert torch.equal(served, torch.stack([_served(GLYPH, one) for one in some]))
    assert int((served[:, 0] != torch.from_numpy(some)).flatten(1).any(1).sum()) < 160


@pytest.mark.data
def test_the_splits_of_cifar_fs_are_disjoint_and_its_images_are_those_of_the_mosaics(data_dir: Path) -> None:
    lists = json.loads((data_dir / "cifar_fs" / "split.json").read_text())
    assert [len(set(names)) for names in lists.values()] == [64, 16, 20]
    assert len({name for names in lists.values() for name in names}) == 100
    pool = datasets.load(Data("cifar_fs"), data_dir, "validation", TINY)
    assert list(pool.names) == lists["val"]
    assert pool.counts.tolist() == [600] * 16
    with Image.open(data_dir / "cifar_fs" / f"{pool.names[3]}.webp") as mosaic:
        cell = np.asarray(mosaic.convert("RGB").crop((2 * 32, 32, 3 * 32, 2 * 32)))
    image = pool.inputs[3 * 600 + 26]
    assert np.array_equal(image.permute(1, 2, 0), cell)
    assert torch.equal(image, _served(TINY, cell))
    mean = pool.inputs.float().mean((0, 2, 3)) / 255
    torch.testing.assert_close(mean, torch.tensor([0.507, 0.487, 0.441]), atol=0.05, rtol=0)
