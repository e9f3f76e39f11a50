"""The page on training: its recipe reads, it names every key and option, and what it promises happens."""

import re
import tomllib
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from app.cli import cli
from app.training.data_section import Data
from app.training.recipe import Augmentation, Recipe, recipe_from_dict

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
DATA_PAGE = (ROOT / "docs" / "training-data.md").read_text(encoding="utf-8")


def _tomls(page: str) -> list[str]:
    return re.findall(r"^```toml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def _keys(kind: Any) -> set[str]:
    """The keys of a recipe's table and of those in it; data and augmentation have a page of their own."""
    found = set()
    hints = get_type_hints(kind)
    for part in fields(kind):
        found.add(part.name)
        for inner in (hints[part.name], *get_args(hints[part.name])):
            if is_dataclass(inner) and inner not in {Data, Augmentation}:
                found |= _keys(inner)
    return found


def test_the_page_names_every_key_of_a_recipe() -> None:
    named = set(re.findall(r"`(?:stages\.)?(\w+)`", PAGE))
    assert _keys(Recipe) - named == set()


def test_the_page_and_the_command_know_the_same_options() -> None:
    runner = CliRunner()
    known = {"train": set(), "evaluate": set()}
    for name, options in known.items():
        shown = runner.invoke(cli, [name, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
        assert shown.exit_code == 0
        options |= set(re.findall(r"--[a-z-]+", shown.output))
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE)) - {"--nproc-per-node", "--logdir"}
    assert named - (known["train"] | known["evaluate"]) == set()
    assert {"--save-minutes", "--fresh", "--name", "--finish"} <= named


def test_the_recipe_of_the_page_reads() -> None:
    (text,) = _tomls(PAGE)
    assert [stage.kind for stage in recipe_from_dict(tomllib.loads(text)).stages] == ["classify", "distill", "episodes"]


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A folder for each of 6 classes, as the page on data draws it."""
    draw = np.random.default_rng(0)
    for kind in range(6):
        colour = draw.integers(0, 256, 3)
        for number in range(10):
            pixels = np.clip(colour + draw.normal(0, 25, (48, 64, 3)), 0, 255).astype(np.uint8)
            path = tmp_path / "data" / "mushrooms" / f"kind {kind}" / f"IMG_{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return tmp_path


def _short(number: re.Match[str]) -> str:
    """A few steps and episodes are enough to see that it works."""
    return "cycles = [20]" if number[1] is None else f"{number[1]} = 20"


@pytest.mark.usefixtures("undrawn")
def test_a_folder_of_photographs_becomes_a_served_backbone_by_the_page_alone(photographs: Path) -> None:
    from app.checkpoints.load import load_all
    from app.config import Settings
    from app.core.limits import Limits
    from app.services.catalogue import Catalogue

    recipe = re.sub(r"(episodes|every_steps) = \d+|cycles = \[300\]", _short, _tomls(DATA_PAGE)[0])
    (photographs / "mushrooms.toml").write_text(recipe, encoding="utf-8")
    command = ["train", str(photographs / "mushrooms.toml"), "--data", str(photographs / "data")]
    done = CliRunner().invoke(cli, [*command, "--out", str(photographs / "trained"), "--threads", "1"])
    assert done.exit_code == 0, done.output
    checkpoints, left_out = load_all(Settings(models=str(photographs / "trained")).model_folders())
    assert left_out == {}
    catalogue = Catalogue(checkpoints, Limits())
    candidate = catalogue.candidates(catalogue.kit("photo-mushrooms"), "ridge", {})[0]
    assert candidate.settings["normalise"] is True
    assert candidate.settings["scale"] != 20.0
    assert checkpoints["photo-mushrooms"].sha256 == checkpoints["photo-efficientnet-lite0"].sha256
