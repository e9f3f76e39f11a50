"""Ours beside the papers: the right paper, the right goal, every learner of a card."""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from app import backbones
from app.checkpoints.card import Card, OwnWeights
from app.checkpoints.load import Checkpoint
from app.checkpoints.save import save
from app.training.evaluate import evaluate
from app.training.publish import learners_of
from app.training.recipe import Judging
from app.training.sampler import Pool
from app.training.train_command import find_checkpoint
from benchmarks import accuracy, papers, scores
from benchmarks.accuracy import Judged, best_rows
from benchmarks.scores import Score, episodes_of, trained_on

LEARNERS = {"maml": {"steps": 1, "learning_rate": 0.01}, "protonet": {}, "matching": {}}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    """A network that was never trained, and three learners over it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = backbones.build("conv4", {"filters": 8})
    card = Card(
        name="glyph-untrained",
        description="A network for tests.",
        architecture="conv4",
        architecture_settings={"filters": 8},
        modality="image",
        dim=8,
        preprocessing={"height": 28, "width": 28, "channels": 1, "resize": "stretch"},
        weights=OwnWeights("weights.safetensors"),
        sha256="0" * 64,
        learners=LEARNERS,
        licence="none",
        provenance="random",
    )
    save(tmp_path, card, backbone.state_dict())
    return find_checkpoint(str(tmp_path / card.name), [])


@pytest.fixture
def pool() -> Pool:
    generator = torch.Generator().manual_seed(0)
    shapes = torch.randint(0, 2, (24, 1, 1, 28, 28), generator=generator) * 200
    noise = torch.randint(0, 56, (24, 20, 1, 28, 28), generator=generator)
    return Pool.of_classes((shapes + noise).to(torch.uint8))


def card_of(architecture: str, learners: dict[str, dict[str, object]], **settings: object) -> Card:
    return Card(
        name="one",
        description="",
        architecture=architecture,
        architecture_settings=settings,
        modality="image",
        dim=1,
        weights=None,
        sha256=None,
        learners=learners,
        licence="",
        provenance="",
    )


@pytest.mark.parametrize(
    ("dataset", "card", "learner", "measure", "goal"),
    [
        ("omniglot", card_of("conv4", {"maml": {}}), "maml", (20, 1), 95.8),
        ("omniglot", card_of("conv4", {"maml": {"learned_rates": True}}), "maml", (20, 1), 97.65),
        ("omniglot", card_of("conv4", {"ridge": {}}), "ridge", (5, 1), None),
        ("omniglot", card_of("conv4", {"protonet": {}}, filters=32), "protonet", (5, 1), None),
        ("cifar_fs", card_of("conv4", {"protonet": {}}, channels=3), "protonet", (5, 5), 71.0),
        ("cifar_fs", card_of("conv4", {"ridge": {}}, channels=3), "ridge", (5, 1), None),
        ("cifar_fs", card_of("conv4", {"ridge": {}}, widths=[96, 192, 384, 512]), "ridge", (5, 1), 64.3),
        ("cifar_fs", card_of("resnet12", {"svm": {}}), "svm", (5, 5), 84.2),
    ],
)
def test_the_goal_of_a_learner_is_its_paper_over_the_same_network(
    dataset: str, card: Card, learner: str, measure: papers.Measure, goal: float | None
) -> None:
    assert papers.goal_of(dataset, card, learner, measure) == goal


def test_a_number_that_saw_the_other_queries_is_marked() -> None:
    card = card_of("conv4", {"maml": {}, "protonet": {}})

    assert papers.said(papers.paper_of("omniglot", card, "maml"), (5, 1)) == "98.7 (Finn et al. 2017, transductive)"
    assert papers.said(papers.paper_of("omniglot", card, "protonet"), (5, 1)) == "98.8 (Snell et al. 2017)"
    assert papers.said(papers.paper_of("omniglot", card, "ridge"), (5, 1)) == ""


def test_all_learners_are_judged_as_after_a_training(checkpoint: Checkpoint, pool: Pool) -> None:
    judging = Judging(5, 1, episodes=12, queries=3, seed=7)
    served, heard = learners_of(checkpoint), []

    found = episodes_of(checkpoint, served, pool, [judging], "omniglot/test", heard.append)

    assert [one.learner for one in found] == list(checkpoint.card.learners)
    for one in found:
        said = evaluate(served[one.learner], pool, judging)
        assert (one.accuracy, one.interval_95) == (round(said.mean, 5), round(said.interval_95, 5))
        assert (one.dataset, one.episodes, one.seed, one.transductive) == ("omniglot/test", 12, 7, False)
    assert any(line.startswith("glyph-untrained: maml 5-way 1-shot") for line in heard)


def test_a_slow_learner_says_how_far_it_is(checkpoint: Checkpoint, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "TELL_EVERY_S", 0.0)
    served, heard = {"maml": learners_of(checkpoint)["maml"]}, []

    episodes_of(checkpoint, served, pool, [Judging(5, 1, episodes=3, queries=1)], "", heard.append)

    assert [line.partition(" episodes")[0].rpartition(": ")[2] for line in heard[:3]] == ["0 of 3", "1 of 3", "2 of 3"]


def test_a_card_says_what_it_was_trained_on(checkpoint: Checkpoint) -> None:
    sources = [
        {"name": "texts", "folder": "text/clinc150", "splits": {"train": "all"}},
        {"name": "texts", "folder": "text/hwu64", "splits": {"test": "all"}},
    ]
    one = replace(checkpoint, card=replace(checkpoint.card, recipe={"data": {"sources": sources}}))

    assert trained_on(one, "text/clinc150")
    assert not trained_on(one, "text/hwu64")
    assert not trained_on(checkpoint, "text/clinc150")


def test_the_best_learner_had_not_seen_the_classes(checkpoint: Checkpoint) -> None:
    def judged(accuracy: float, learner: str, own_classes: bool) -> Judged:
        score = Score("HWU64", 64, 5, learner, accuracy, 0.01, 1, 0, False, None)
        return Judged(checkpoint, "hwu64", (None, 5), score, own_classes=own_classes)

    seen, unseen = judged(0.95, "logistic", True), judged(0.80, "ridge", False)

    (row,) = best_rows([judged(0.78, "protonet", False), seen, unseen])

    assert (row.name, row.value, row.goal, row.verdict) == ("best: HWU64 5-shot", 80.0, 79.0, "met")
    assert row.note == "glyph-untrained: ridge"
    assert best_rows([seen]) == []


def test_the_command_prints_ours_beside_the_paper(
    checkpoint: Checkpoint,
    pool: Pool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(accuracy.datasets, "load", lambda *_: pool)
    monkeypatch.setattr(accuracy.data, "data_dir", lambda: tmp_path)
    monkeypatch.setattr(accuracy, "find_checkpoint", lambda *_: checkpoint)
    monkeypatch.setattr(papers, "network_of", lambda _: "conv4")
    told = ["--checkpoint", "glyph-untrained", "--learner", "protonet", "maml", "--episodes", "4", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["accuracy", *told, "--json", str(tmp_path / "rows.json")])

    accuracy.main()

    rows = {row["name"]: row for row in json.loads((tmp_path / "rows.json").read_text())}
    assert len(rows) == 2 * 4 + 4
    row = rows["glyph-untrained: Omniglot 20-way 5-shot, maml"]
    assert row["goal"] == 98.9
    assert row["columns"] == {"paper": "98.9 (Finn et al. 2017, transductive)", "external pretraining": "none"}
    assert rows["best: Omniglot 5-way 1-shot"]["goal"] == 99.5
    assert "fewer than 600" in capsys.readouterr().out


def test_texts_that_were_trained_on_are_judged_by_what_the_recipe_makes_of_the_others() -> None:
    bundled = find_checkpoint("text-minilm", [accuracy.bundled_models()])

    for judged, trained in (("clinc150", "HWU64"), ("hwu64", "CLINC150")):
        assert trained_on(bundled, f"text/{judged}")
        judge, note, own = accuracy._text_judge(bundled, judged)
        assert not trained_on(judge, f"text/{judged}")
        assert (note, own) == (f"by the same recipe, trained on {trained} alone", False)
        assert list(judge.card.learners) == list(bundled.card.learners)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("glyph-conv4-protonet", "omniglot"),
        ("photo-efficientnet-lite0", "clothing"),
        ("text-minilm", "intents"),
        ("vector-identity", None),
    ],
)
def test_a_bundled_checkpoint_is_judged_by_what_it_is_for(name: str, expected: str | None) -> None:
    assert accuracy.set_of(find_checkpoint(name, [accuracy.bundled_models()])) == expected
