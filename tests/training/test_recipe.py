from copy import deepcopy
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import pytest

from app.training.recipe import BadRecipe, read_recipe, recipe_from_dict


def _stage(raw: dict[str, Any]) -> dict[str, Any]:
    return raw["stages"][0]


def test_every_bundled_recipe_reads_and_is_named_as_its_file() -> None:
    with as_file(files("app.training") / "recipes") as folder:
        paths = sorted(folder.glob("*.toml"))
        assert paths
        for path in paths:
            assert read_recipe(path).name == path.stem


@pytest.mark.parametrize("section", ["", "data", "backbone", "learner", "validation", "card"])
def test_an_unknown_key_is_refused_by_name(raw_recipe: dict[str, Any], section: str) -> None:
    (raw_recipe[section] if section else raw_recipe)["stepz"] = 1
    with pytest.raises(BadRecipe, match="stepz"):
        recipe_from_dict(raw_recipe)


@pytest.mark.parametrize("section", ["", "episodes", "augmentation", "optimiser"])
def test_an_unknown_key_of_a_stage_is_refused_by_name(raw_recipe: dict[str, Any], section: str) -> None:
    stage = _stage(raw_recipe)
    (stage[section] if section else stage)["stepz"] = 1
    with pytest.raises(BadRecipe, match=r"stages\[0\].*stepz"):
        recipe_from_dict(raw_recipe)


def test_an_unknown_key_in_a_list_of_tables_is_refused_with_its_place(raw_recipe: dict[str, Any]) -> None:
    raw_recipe["tests"][0]["shots"] = 5
    with pytest.raises(BadRecipe, match=r"tests\[0\]"):
        recipe_from_dict(raw_recipe)


def test_a_missing_key_is_refused_by_name(raw_recipe: dict[str, Any]) -> None:
    del _stage(raw_recipe)["optimiser"]["cycles"]
    with pytest.raises(BadRecipe, match="cycles"):
        recipe_from_dict(raw_recipe)


@pytest.mark.parametrize("value", ["100", 1.5, True, [1]])
def test_a_value_of_another_type_is_refused(raw_recipe: dict[str, Any], value: object) -> None:
    _stage(raw_recipe)["episodes"]["way"] = value
    with pytest.raises(BadRecipe, match=r"episodes\.way"):
        recipe_from_dict(raw_recipe)


@pytest.mark.parametrize("cycles", [[], [0], 100, ["100"]])
def test_training_cycles_that_cannot_be_are_refused(raw_recipe: dict[str, Any], cycles: object) -> None:
    _stage(raw_recipe)["optimiser"]["cycles"] = cycles
    with pytest.raises(BadRecipe, match="cycles"):
        recipe_from_dict(raw_recipe)


def test_a_whole_number_serves_where_a_fraction_is_wanted(raw_recipe: dict[str, Any]) -> None:
    _stage(raw_recipe)["augmentation"]["shift_pixels"] = 2
    assert recipe_from_dict(raw_recipe).stages[0].augmentation.shift_pixels == 2.0


@pytest.mark.parametrize(
    ("key", "value"), [("way", 1), ("shot", 3), ("splits", 4), ("splits", 0), ("meta_batch", 0), ("queries", 5)]
)
def test_episodes_that_cannot_be_are_refused(raw_recipe: dict[str, Any], key: str, value: int) -> None:
    _stage(raw_recipe)["episodes"][key] = value
    with pytest.raises(BadRecipe, match=key):
        recipe_from_dict(raw_recipe)


def test_shot_and_queries_say_how_many_examples_a_class_gives(raw_recipe: dict[str, Any]) -> None:
    _stage(raw_recipe)["episodes"] = {"way": 5, "shot": 2, "queries": 7}
    plan = recipe_from_dict(raw_recipe).stages[0].episodes
    assert plan is not None
    assert plan.each == 9


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "classify"}, "episodes belongs"),
        ({"episodes": None}, "needs it"),
        ({"classes": {}}, "classes belongs"),
        ({"kind": "train"}, "one of"),
        ({"distillation": {}}, "distillation belongs"),
        ({"every_steps": 0}, "every_steps"),
        ({"keep": "first"}, "keep"),
    ],
)
def test_stages_that_make_no_sense_are_refused(raw_recipe: dict[str, Any], change: dict[str, Any], said: str) -> None:
    stage = _stage(raw_recipe) | change
    raw_recipe["stages"] = [{name: value for name, value in stage.items() if value is not None}]
    with pytest.raises(BadRecipe, match=said):
        recipe_from_dict(raw_recipe)


def test_a_student_needs_a_teacher_before_it(raw_recipe: dict[str, Any]) -> None:
    pupil = {"kind": "distill", "optimiser": {"cycles": [1], "learning_rate": 0.1}}
    for stages in ([pupil], [_stage(raw_recipe), pupil]):
        with pytest.raises(BadRecipe, match="must follow"):
            recipe_from_dict(raw_recipe | {"stages": stages})
    recipe_from_dict(raw_recipe | {"stages": [pupil | {"kind": "classify"}, pupil, pupil, _stage(raw_recipe)]})


def test_a_recipe_starts_from_a_backbone_or_from_a_checkpoint(raw_recipe: dict[str, Any]) -> None:
    with pytest.raises(BadRecipe, match="either backbone or init"):
        recipe_from_dict(raw_recipe | {"init": "other"})
    del raw_recipe["backbone"]
    with pytest.raises(BadRecipe, match="either backbone or init"):
        recipe_from_dict(raw_recipe)
    del raw_recipe["card"]["preprocessing"]
    assert recipe_from_dict(raw_recipe | {"init": "other"}).card.preprocessing is None


def test_a_frozen_network_is_trained_by_episodes_alone_without_augmentation(raw_recipe: dict[str, Any]) -> None:
    plain = deepcopy(raw_recipe)
    del _stage(plain)["augmentation"]
    recipe_from_dict(plain | {"freeze_backbone": True})
    with pytest.raises(BadRecipe, match="without augmentation"):
        recipe_from_dict(raw_recipe | {"freeze_backbone": True})


def test_a_card_without_a_preprocessing_needs_a_checkpoint_that_has_one(raw_recipe: dict[str, Any]) -> None:
    del raw_recipe["card"]["preprocessing"]
    with pytest.raises(BadRecipe, match="preprocessing"):
        recipe_from_dict(raw_recipe)


def test_settings_of_the_cards_learners_must_be_tables(raw_recipe: dict[str, Any]) -> None:
    raw_recipe["card"]["learners"]["ridge"] = 3
    with pytest.raises(BadRecipe, match=r"card\.learners\.ridge"):
        recipe_from_dict(raw_recipe)


def test_a_file_that_is_no_toml_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text("name = ")
    with pytest.raises(BadRecipe, match=r"broken\.toml"):
        read_recipe(path)
