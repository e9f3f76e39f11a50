from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from app.checkpoints.load import load, scan
from app.training import datasets
from app.training.__main__ import main, run
from app.training.evaluate import embed_pool, evaluate
from app.training.loop import head_of
from app.training.recipe import Judging, Named, Recipe
from app.training.sampler import Pool

MODELS = Path(__file__).parents[2] / "models"


@pytest.fixture
def synthetic(monkeypatch: pytest.MonkeyPatch, alphabet: Callable[[int, int], Pool]) -> Iterator[None]:
    sizes = {"train": 12, "val": 8, "test": 8}
    monkeypatch.setattr(datasets, "load", lambda name, folder, split: alphabet(sizes[split], sizes[split]))
    return


@pytest.mark.usefixtures("synthetic")
def test_a_run_writes_a_checkpoint_that_loads_and_carries_its_scores(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(recipe, Path("unused"), tmp_path)
    checkpoint = load(scan([tmp_path])["tiny-glyphs"])
    (score,) = checkpoint.card.scores
    assert (score["way"], score["shot"], score["episodes"], score["transductive"]) == (5, 1, 20, False)
    features = embed_pool(checkpoint.backbone, datasets.load("omniglot", Path(), "test"))
    assert evaluate(head_of(Named("protonet")), features, recipe.tests[0]).mean == pytest.approx(score["accuracy"])
    assert checkpoint.card.recipe["optimiser"] == {
        "cycles": [8, 4],
        "learning_rate": 0.01,
        "cycle_decay": 1.0,
        "warmup_steps": 2,
        "final_share": 0.0,
    }
    said = capsys.readouterr().out
    assert "step 6/12" in said
    assert "protonet 5-way 1-shot" in said


@pytest.mark.usefixtures("synthetic")
def test_the_same_recipe_writes_the_same_weights(recipe: Recipe, tmp_path: Path) -> None:
    short = replace(recipe, optimiser=replace(recipe.optimiser, cycles=(2,)))
    for out in ("one", "two"):
        run(short, Path("unused"), tmp_path / out)
    one, two = (scan([tmp_path / out])["tiny-glyphs"].card for out in ("one", "two"))
    assert one.sha256 == two.sha256


def test_a_recipe_that_is_not_there_is_a_sentence_and_a_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["no-such-recipe", "--data", str(tmp_path), "--out", str(tmp_path)]) == 1
    assert "no-such-recipe" in capsys.readouterr().err


@pytest.mark.data
def test_the_bundled_glyph_checkpoint_holds_its_accuracy_on_unseen_characters(data_dir: Path) -> None:
    checkpoint = load(scan([MODELS])["glyph-conv4-protonet"])
    pool = datasets.load("omniglot", data_dir, "test")
    some = Pool(pool.inputs[torch.randperm(len(pool.inputs), generator=torch.Generator().manual_seed(0))[:400]])
    judging = Judging(way=5, shot=1, episodes=200, queries=15, seed=7)
    accuracy = evaluate(head_of(Named("protonet")), embed_pool(checkpoint.backbone, some), judging)
    assert accuracy.mean >= 0.98  # measured: 0.99
