"""The page on training data: its recipes read, its data loads, and it names every data set and setting."""

import importlib
import re
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from app.training import datasets
from app.training.data_section import PARTS, Augmentation, Data
from app.training.decoding import codec_of
from app.training.recipe import recipe_from_dict
from app.training.strict import section

PAGE = (Path(__file__).parents[2] / "docs" / "training-data.md").read_text(encoding="utf-8")
BLOCKS = [tomllib.loads(block) for block in re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)]
SMALL = codec_of("image", {"height": 8, "width": 8, "channels": 3, "resize": "stretch"})


@pytest.mark.parametrize("raw", [block for block in BLOCKS if "learner" in block], ids=lambda raw: raw["name"])
def test_a_recipe_of_the_page_finds_its_classes_in_the_folders_of_the_page(tmp_path: Path, raw: dict[str, Any]) -> None:
    recipe = recipe_from_dict(raw)
    way = max(judging.way for judging in (recipe.validation.judging, *recipe.tests))
    for kind in range(6 if way == 2 else 34):
        for number in range(3):
            path = tmp_path / "mushrooms" / f"kind {kind}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20, 10), (kind * 7, number * 50, 0)).save(path)
    for part in PARTS:
        datasets.require(datasets.load(recipe.data, tmp_path, part, SMALL), way, 3, recipe.data.title(part))


def test_the_sources_of_the_page_train_on_one_set_and_judge_on_another() -> None:
    (raw,) = [block["data"] for block in BLOCKS if "learner" not in block]
    data = section(Data, raw)
    assert data.title("train") == "text/clinc150/train+test"
    assert data.title("validation") == "text/clinc150/val"
    assert data.title("test") == "text/hwu64/all"


def test_the_page_names_every_data_set_and_every_setting() -> None:
    named = set(re.findall(r"`(\w+)(?: = [^`]*)?`", PAGE))
    assert named >= set(datasets.dataset_names())
    assert named >= {one.name for one in fields(Augmentation)}
    for name in datasets.dataset_names():
        module = importlib.import_module(f"app.training.datasets.{name}")
        missing = {one.name for one in fields(module.Settings)} - named
        assert not missing, f"{name}: {missing}"
