from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import pytest

from app.training.recipe import BadRecipe, read_recipe, recipe_from_dict


def test_every_bundled_recipe_reads_and_is_named_as_its_file() -> None:
    with as_file(files("app.training") / "recipes") as folder:
        paths = sorted(folder.glob("*.toml"))
        assert paths
        for path in paths:
            assert read_recipe(path).name == path.stem


@pytest.mark.parametrize("section", ["", "data", "backbone", "episodes", "augmentation", "optimiser", "card"])
def test_an_unknown_key_is_refused_by_name(raw_recipe: dict[str, Any], section: str) -> None:
    (raw_recipe[section] if section else raw_recipe)["stepz"] = 1
    with pytest.raises(BadRecipe, match="stepz"):
        recipe_from_dict(raw_recipe)


def test_an_unknown_key_in_a_list_of_tables_is_refused_with_its_place(raw_recipe: dict[str, Any]) -> None:
    raw_recipe["tests"][0]["shots"] = 5
    with pytest.raises(BadRecipe, match=r"tests\[0\]"):
        recipe_from_dict(raw_recipe)


def test_a_missing_key_is_refused_by_name(raw_recipe: dict[str, Any]) -> None:
    del raw_recipe["optimiser"]["cycles"]
    with pytest.raises(BadRecipe, match="cycles"):
        recipe_from_dict(raw_recipe)


@pytest.mark.parametrize("value", ["100", 1.5, True, [1]])
def test_a_value_of_another_type_is_refused(raw_recipe: dict[str, Any], value: object) -> None:
    raw_recipe["episodes"]["way"] = value
    with pytest.raises(BadRecipe, match=r"episodes\.way"):
        recipe_from_dict(raw_recipe)


@pytest.mark.parametrize("cycles", [[], [0], 100, ["100"]])
def test_training_cycles_that_cannot_be_are_refused(raw_recipe: dict[str, Any], cycles: object) -> None:
    raw_recipe["optimiser"]["cycles"] = cycles
    with pytest.raises(BadRecipe, match="cycles"):
        recipe_from_dict(raw_recipe)


def test_a_whole_number_serves_where_a_fraction_is_wanted(raw_recipe: dict[str, Any]) -> None:
    raw_recipe["augmentation"]["shift_pixels"] = 2
    assert recipe_from_dict(raw_recipe).augmentation.shift_pixels == 2.0


@pytest.mark.parametrize(("key", "value"), [("way", 1), ("shot", 3), ("splits", 4), ("splits", 0)])
def test_episodes_that_cannot_be_are_refused(raw_recipe: dict[str, Any], key: str, value: int) -> None:
    raw_recipe["episodes"][key] = value
    with pytest.raises(BadRecipe, match=key):
        recipe_from_dict(raw_recipe)


def test_a_file_that_is_no_toml_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text("name = ")
    with pytest.raises(BadRecipe, match=r"broken\.toml"):
        read_recipe(path)
