"""The cards' scores are what the product scores."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import cards


@pytest.mark.data
def test_the_text_card_says_what_its_nearest_mean_scores(data_dir: Path) -> None:
    (measured,) = cards.intents(sets=["clinc150"], shots=[5], only="protonet")

    said = {score.measure: score for score in cards.stored("text-minilm")}[measured.measure]

    assert measured.accuracy == pytest.approx(said.accuracy, abs=0.002)


@pytest.mark.parametrize("name", cards.MEASURES)
def test_every_learner_of_a_card_is_scored_on_the_same_sets(name: str) -> None:
    measures = [score.measure for score in cards.stored(name)]
    learners = {learner for *_, learner in measures}

    assert len(set(measures)) == len(measures)
    assert {(*rest, learner) for *rest, _ in measures for learner in learners} == set(measures)


def test_every_bundled_checkpoint_is_measured() -> None:
    assert {path.parent.name for path in cards.bundled_models().glob("*/card.json")} == set(cards.MEASURES)


def test_a_measured_row_shows_what_the_card_says_of_the_same() -> None:
    before = cards.stored("text-minilm")[0]
    measured = replace(before, accuracy=before.accuracy + 0.01)

    (row,) = cards.compared("text-minilm", [measured], [before])

    assert row.value == pytest.approx(100 * before.accuracy + 1)
    assert row.note.startswith(f"card {100 * before.accuracy:.2f} +- ")
    assert row.note.endswith("now +1.00")


def test_a_row_that_the_card_lacks_says_so() -> None:
    measured = replace(cards.stored("text-minilm")[0], shot=3)

    (row,) = cards.compared("text-minilm", [measured], cards.stored("text-minilm"))

    assert row.note == "not on the card"


def test_writing_replaces_the_scores_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "text-minilm"
    path = tmp_path / name / "card.json"
    path.parent.mkdir()
    path.write_bytes((cards.bundled_models() / name / "card.json").read_bytes())
    before = cards.read_card(path)
    monkeypatch.setattr(cards, "bundled_models", lambda: tmp_path)
    fewer = cards.stored(name)[:2]

    cards.write(name, fewer)

    assert cards.stored(name) == fewer
    assert replace(cards.read_card(path), scores=before.scores) == before
