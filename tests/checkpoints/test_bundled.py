"""The checkpoints that come with Imprint: their cards hold what users need to know."""

from pathlib import Path

import pytest

from app import learners
from app.checkpoints.card import Card, card_to_json, read_card

MODELS = Path(__file__).parents[2] / "models"
PATHS = sorted(MODELS.glob("*/card.json"))


@pytest.fixture(params=PATHS, ids=lambda path: path.parent.name)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def card(path: Path) -> Card:
    return read_card(path)


def test_every_folder_has_a_card() -> None:
    assert {path.parent.name for path in PATHS} == {folder.name for folder in MODELS.iterdir() if folder.is_dir()}
    assert {"photo-efficientnet-lite0", "text-minilm", "vector-identity"} <= {path.parent.name for path in PATHS}


def test_its_learners_exist_and_take_its_settings(card: Card) -> None:
    for name, settings in card.learners.items():
        learners.parse_settings(name, settings)


def test_it_says_whose_it_is_and_where_it_is_from(card: Card) -> None:
    assert card.licence
    assert card.provenance
    assert card.description


def test_one_with_weights_has_measured_scores(card: Card) -> None:
    assert card.scores or card.weights is None
    assert all(str(score["learner"]) in card.learners for score in card.scores)


def test_its_file_is_written_as_saving_writes_it(path: Path, card: Card) -> None:
    assert path.read_text(encoding="utf-8") == card_to_json(card)
