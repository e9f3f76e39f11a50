"""The cards' scores are what the product scores."""

from dataclasses import replace
from pathlib import Path

import pytest

from app.training.publish import learners_of
from app.training.train_command import find_checkpoint, find_recipe
from benchmarks import cards
from benchmarks.scores import sibling_of


@pytest.mark.data
def test_the_text_card_says_what_its_nearest_mean_scores(data_dir: Path) -> None:
    judge = sibling_of("text-minilm", "hwu64")
    assert judge is not None

    (measured,) = cards.intents(judge, sets=["hwu64"], shots=[5], only="protonet")

    said = [one for one in cards.stored("text-minilm") if one.dataset.startswith("HWU64 (train_5")]
    (score,) = (one for one in said if one.learner == "protonet")
    assert measured.accuracy == pytest.approx(score.accuracy, abs=0.002)


@pytest.mark.parametrize("name", cards.names())
def test_every_learner_of_a_card_is_scored_on_the_sets_whose_way_it_serves(name: str) -> None:
    served = learners_of(find_checkpoint(name, [cards.bundled_models()]))
    measures = [score.measure for score in cards.stored(name)]
    sets = {tuple(rest) for *rest, _ in measures}

    assert len(set(measures)) == len(measures)
    for learner in {learner for *_, learner in measures}:
        least, most = served[learner].ways or (2, 10_000)
        assert {tuple(rest) for *rest, one in measures if one == learner} == {
            one for one in sets if least <= one[1] <= most
        }


def test_what_was_trained_here_on_images_has_a_recipe_that_can_judge_it_again() -> None:
    for name in cards.names():
        card = cards.read_card(cards.bundled_models() / name / "card.json")
        if card.modality == "image" and name != cards.PHOTO:
            assert find_recipe(name).tests, name


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
