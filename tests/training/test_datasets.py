"""What all data sets share: sources, parts, and how classes are split."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from app.codecs.vector import VectorCodec
from app.core.errors import UnknownName
from app.core.limits import Limits
from app.training import datasets
from app.training.data_section import PARTS, Augmentation, Data, Source
from app.training.datasets import _splits
from app.training.datasets._splits import SplitSettings, classes_of, listed, seeded
from app.training.errors import BadData, BadRecipe
from app.training.sampler import Pool

NAMES = [f"class {number}" for number in range(20)]
VECTORS = VectorCodec(Limits())


def _store(folder: Path, labels: list[str], dim: int = 3) -> None:
    """Vectors whose first number is their row."""
    folder.mkdir(parents=True)
    inputs = np.zeros((len(labels), dim))
    inputs[:, 0] = np.arange(len(labels))
    np.savez(folder / "all.npz", inputs=inputs, labels=np.array(labels))


def test_an_unknown_data_set_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="omniglott"):
        datasets.load(Data("omniglott"), tmp_path, "train", VECTORS)


def test_a_setting_that_a_data_set_lacks_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BadRecipe, match=r"'arrays': .*'fiel'.*file"):
        datasets.load(Data("arrays", settings={"fiel": "x.npz"}), tmp_path, "train", VECTORS)


def test_a_folder_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError, match="'somewhere'"):
        datasets.load(Data("arrays", "somewhere"), tmp_path, "train", VECTORS)


def test_every_data_set_describes_its_settings() -> None:
    import importlib

    for name in datasets.dataset_names():
        module = importlib.import_module(f"app.training.datasets.{name}")
        assert module.__doc__
        assert module.load.__doc__
        module.Settings()  # a default that is out of range is refused here


def test_the_parts_of_a_run_share_no_class_and_lose_none(tmp_path: Path) -> None:
    _store(tmp_path / "arrays", NAMES * 2)
    pools = [datasets.load(Data("arrays"), tmp_path, part, VECTORS) for part in PARTS]
    assert [len(pool.names) for pool in pools] == [12, 4, 4]
    assert sorted(name for pool in pools for name in pool.names) == sorted(NAMES)
    assert sorted(float(row[0]) for pool in pools for row in pool.inputs) == list(range(40))


def test_splits_are_added_up_and_all_is_every_class(tmp_path: Path) -> None:
    _store(tmp_path / "arrays", NAMES)
    data = Data("arrays", train="train+val", test="test")
    train, test = (datasets.load(data, tmp_path, part, VECTORS) for part in ("train", "test"))
    assert len(train.names) == 16
    assert not set(train.names) & set(test.names)
    every = datasets.load(Data("arrays", train="all", test=""), tmp_path, "train", VECTORS)
    assert every.names == tuple(sorted(NAMES))


def test_overlapping_splits_in_one_part_are_refused(tmp_path: Path) -> None:
    _store(tmp_path / "arrays", NAMES)
    with pytest.raises(BadData, match="twice in 'arrays/train\\+train'"):
        datasets.load(Data("arrays", train="train+train"), tmp_path, "train", VECTORS)


def test_several_sources_are_one_pool_with_their_folders_in_the_names(tmp_path: Path) -> None:
    _store(tmp_path / "one", ["a", "a", "b"])
    _store(tmp_path / "two", ["a", "c", "c"])
    sources = (
        Source("arrays", "one", splits={"train": "all", "validation": "all"}),
        Source("arrays", "two", splits={"train": "all"}),
        Source("arrays", "three", splits={"test": "all"}),
    )
    data = Data(sources=sources)
    both = datasets.load(data, tmp_path, "train", VECTORS)
    assert both.names == ("one/a", "one/b", "two/a", "two/c")
    assert both.counts.tolist() == [2, 1, 1, 2]
    assert datasets.load(data, tmp_path, "validation", VECTORS).names == ("one/a", "one/b")
    assert data.title("train") == "one/all, two/all"


def test_a_part_that_no_source_serves_is_refused_when_it_is_needed(tmp_path: Path) -> None:
    with pytest.raises(BadRecipe, match=r"'data\.validation': no split"):
        datasets.load(Data("arrays", validation=""), tmp_path, "validation", VECTORS)


@pytest.mark.parametrize(
    ("section", "wrong"),
    [
        ({}, "either name or sources"),
        ({"name": "arrays", "sources": (Source("arrays"),)}, "either name or sources"),
        ({"sources": (Source("arrays"),), "folder": "x"}, "each of the sources"),
        ({"sources": (Source("arrays"), Source("images", "arrays"))}, "same folder"),
        ({"name": "arrays", "test": "train"}, "cannot judge"),
        ({"name": "arrays", "train": "train+test"}, "cannot judge"),
        ({"name": "arrays", "train": "all"}, "cannot judge"),
        ({"name": "arrays", "folder": "/etc"}, "under the data folder"),
        ({"name": "arrays", "folder": "../x"}, "under the data folder"),
    ],
)
def test_a_data_section_that_cannot_be_is_refused(section: dict[str, Any], wrong: str) -> None:
    with pytest.raises(BadRecipe, match=wrong):
        Data(**section)


def test_a_source_for_an_unknown_part_is_refused() -> None:
    with pytest.raises(BadRecipe, match=r"splits.*\['training'\]"):
        Source("arrays", splits={"training": "all"})


@pytest.mark.parametrize("values", [{"flip_share": 1.5}, {"scale": -0.1}, {"erase_pixels": 0}, {"brightness": 2.0}])
def test_an_augmentation_out_of_range_is_refused_by_name(values: dict[str, Any]) -> None:
    with pytest.raises(BadRecipe, match=next(iter(values))):
        Augmentation(**values)


def test_mirrored_classes_are_added_to_the_training_part_alone(tmp_path: Path) -> None:
    images = torch.randint(0, 256, (3, 2, 1, 4, 4), dtype=torch.uint8)
    pool = datasets.mirrored(Pool.of_classes(images, ["a", "b", "c"]))
    assert pool.names == ("a", "b", "c", "a/mirrored", "b/mirrored", "c/mirrored")
    assert pool.counts.tolist() == [2] * 6
    assert torch.equal(pool.inputs[6:], images.flatten(0, 1).flip(-1))
    _store(tmp_path / "arrays", NAMES)
    mirroring = Data("arrays", mirror_classes=True)
    with pytest.raises(BadRecipe, match="mirror"):
        datasets.load(mirroring, tmp_path, "train", VECTORS)
    assert len(datasets.load(mirroring, tmp_path, "test", VECTORS).names) == 4


def test_a_pool_too_small_for_the_episodes_is_refused_with_the_classes_that_lack_examples() -> None:
    pool = Pool.of_classes([torch.zeros(n, 1) for n in (9, 3, 9, 1)], ["cat", "dog", "emu", "fox"])
    datasets.require(pool, 2, 9, "pets/train")
    with pytest.raises(
        BadData, match=r"'pets/train' has 4 classes, 2 of them with 9 .* need 3 .*'dog \(3\)', 'fox \(1"
    ):
        datasets.require(pool, 3, 9, "pets/train")


def test_a_seeded_split_has_the_shares_asked_for_and_follows_from_the_seed() -> None:
    splits = seeded(NAMES, 0, 0.1, 0.3)
    assert {split: len(names) for split, names in splits.items()} == {"train": 12, "val": 2, "test": 6}
    assert sorted(name for names in splits.values() for name in names) == sorted(NAMES)
    assert splits == seeded(NAMES[::-1], 0, 0.1, 0.3)
    assert splits != seeded(NAMES, 1, 0.1, 0.3)
    stable = seeded(["a", "b", "c", "d", "e", "f"], 0, 0.2, 0.2)
    assert stable == {"train": ["a", "d"], "val": ["c", "f"], "test": ["b", "e"]}


def test_one_class_more_moves_few_others() -> None:
    before, after = seeded(NAMES, 0, 0.2, 0.2), seeded([*NAMES, "another"], 0, 0.2, 0.2)
    assert sum(len(set(before[split]) - set(after[split])) for split in before) <= 3


def test_too_few_classes_to_split_are_refused_with_the_number_needed() -> None:
    with pytest.raises(BadData, match=r"5 classes are too few .* 6 or more"):
        seeded(NAMES[:5], 0, 0.2, 0.2)
    with pytest.raises(BadData, match="shares"):
        seeded(NAMES, 0, 0.5, 0.5)
    assert set(seeded(NAMES[:4], 0, 0.2, 0.0)) == {"train", "val"}


def test_all_classes_need_no_split(tmp_path: Path) -> None:
    assert classes_of("all", tmp_path, SplitSettings(), ["b", "a"]) == ["a", "b"]


def test_splits_from_json_and_from_text_files_are_the_same(tmp_path: Path) -> None:
    splits = {"train": ["maple tree", "b"], "val": ["c"], "trainval": ["maple tree", "b", "c"]}
    (tmp_path / "split.json").write_text(json.dumps(splits))
    (tmp_path / "lists").mkdir()
    for split, names in splits.items():
        (tmp_path / "lists" / f"{split}.txt").write_text("\n".join(names) + "\n\n")
    known = ["maple tree", "b", "c"]
    assert listed(tmp_path / "split.json", known) == splits
    assert listed(tmp_path / "lists" / "{split}.txt", known) == splits
    found = [classes_of("val", tmp_path, SplitSettings(source), known) for source in ("", "lists/{split}.txt")]
    assert found == [["c"], ["c"]]


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ('{"train": ["a"], "test": ["a"]}', "'a' is in 'train' and in 'test'"),
        ('{"train": ["a", "a"]}', "'a' is twice in 'train'"),
        ('{"train": ["a", "z"]}', "not there: 'z'"),
        ('{"train": "a"}', "list of class names"),
        ('["a"]', "list of class names"),
        ("{", "not JSON"),
    ],
)
def test_lists_that_cannot_be_are_refused(tmp_path: Path, text: str, wrong: str) -> None:
    (tmp_path / "split.json").write_text(text)
    with pytest.raises(BadData, match=wrong):
        listed(tmp_path / "split.json", ["a", "b"])


def test_a_split_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"'valid' .*train \(12 classes\), val \(4 classes\)"):
        classes_of("valid", tmp_path, SplitSettings(), NAMES)
    with pytest.raises(FileNotFoundError, match=r"\{split\}"):
        listed(tmp_path / "{split}.txt", NAMES)
    with pytest.raises(BadData, match="not split into folders"):
        classes_of("train", tmp_path, SplitSettings("folders"), NAMES)


def test_long_lists_of_names_are_cut_in_errors() -> None:
    assert _splits.quoted([str(n) for n in range(25)]).endswith("'19' and 5 more")


# Arrays.


def test_arrays_of_images_come_as_the_codec_makes_them(tmp_path: Path) -> None:
    from app.training.decoding import codec_of

    (tmp_path / "arrays").mkdir()
    grey = np.random.default_rng(0).integers(0, 256, (6, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "arrays" / "digits.npz", x=grey, y=np.array([3, 3, 1, 1, 1, 3]))
    settings = {"inputs": "x", "labels": "y"}
    data = Data("arrays", settings=settings, train="", test="all")
    codec = codec_of("image", {"height": 8, "width": 8, "channels": 1, "resize": "stretch"})
    pool = datasets.load(data, tmp_path, "test", codec)
    assert pool.names == ("1", "3")
    assert torch.equal(pool.inputs, torch.from_numpy(grey[[2, 3, 4, 0, 1, 5], None]))


def _is_refused(folder: Path, wrong: str, codec: Any = VECTORS, **arrays: Any) -> None:
    (folder / "arrays").mkdir(exist_ok=True)
    np.savez(folder / "arrays" / "some.npz", **arrays)
    with pytest.raises(BadData, match=wrong):
        datasets.load(Data("arrays", train="", test="all"), folder, "test", codec)


def test_arrays_of_another_kind_are_refused(tmp_path: Path) -> None:
    from app.training.decoding import codec_of

    images = codec_of("image", {"height": 8, "width": 8, "channels": 1, "resize": "stretch"})
    labels = np.array([0, 0, 1])
    _is_refused(tmp_path, "not a file|no item|labels", inputs=np.zeros((3, 2)))
    _is_refused(tmp_path, "as many 'labels'", inputs=np.zeros((3, 2)), labels=labels[:2])
    _is_refused(tmp_path, "as many 'labels'", inputs=np.zeros((3, 2)), labels=np.zeros(3))
    _is_refused(tmp_path, "Object arrays", inputs=np.array([[None]] * 3), labels=labels)
    _is_refused(tmp_path, "no vectors", inputs=np.full((3, 2), np.nan), labels=labels)
    _is_refused(tmp_path, "no vectors", VectorCodec(Limits(), 5), inputs=np.zeros((3, 2)), labels=labels)
    _is_refused(tmp_path, "no images", images, inputs=np.zeros((3, 8, 8)), labels=labels)
    np.savez(tmp_path / "arrays" / "other.npz", inputs=np.zeros((3, 2)), labels=labels)
    with pytest.raises(BadData, match="it holds 2"):
        datasets.load(Data("arrays"), tmp_path, "train", VECTORS)
