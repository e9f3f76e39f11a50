"""A card says what a checkpoint is; what it must not say is refused by name."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from app.checkpoints.card import (
    BadCard,
    Card,
    OwnWeights,
    PackagedWeights,
    Way,
    card_from_dict,
    card_to_dict,
    card_to_json,
    read_card,
)

SCORE = {
    "dataset": "digits",
    "way": 5,
    "shot": 1,
    "learner": "protonet",
    "accuracy": 0.9,
    "interval_95": 0.01,
    "episodes": 600,
    "seed": 0,
    "transductive": False,
    "external_pretraining": None,
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"weights": OwnWeights("weights.safetensors"), "sha256": "a" * 64, "dtype": "float16"},
        {"weights": PackagedWeights("weights_of_theirs", "m/w.safetensors", "m/tokenizer.json"), "sha256": "0" * 64},
        {"way": Way(5, 20), "shot": {"min": 1, "max": 5}, "recipe": {"seed": 1}, "scores": (SCORE,), "dim": None},
    ],
)
def test_a_card_reads_back_as_it_was_written(
    tmp_path: Path, tiny_card: Callable[..., Card], changes: dict[str, object]
) -> None:
    card = tiny_card(**changes)
    path = tmp_path / "tiny" / "card.json"
    path.parent.mkdir()
    path.write_text(card_to_json(card))
    assert read_card(path) == card
    assert card_to_json(read_card(path)) == path.read_text()


def test_the_order_of_learners_is_kept(tiny_card: Callable[..., Card]) -> None:
    card = tiny_card(learners={"ridge": {}, "matching": {}, "protonet": {}})
    assert list(card_from_dict(json.loads(card_to_json(card)), name="tiny").learners) == [
        "ridge",
        "matching",
        "protonet",
    ]


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"learner": {}}, "unknown keys \\['learner'\\]"),
        ({"way": {"min": 2, "most": 9}}, "'way'.*unknown keys"),
        ({"way": {"min": 1, "max": 9}}, "'way'"),
        ({"way": {"min": "2", "max": 9}}, "'way'"),
        ({"name": "../tiny"}, "'name'"),
        ({"name": 3}, "'name'"),
        ({"architecture": "os.path"}, "'architecture'"),
        ({"modality": "sound"}, "'modality'"),
        ({"dim": 0}, "'dim'"),
        ({"dim": True}, "'dim'"),
        ({"dtype": "float8"}, "'dtype'"),
        ({"shot": {"min": 1.5}}, "'shot'"),
        ({"learners": {}}, "'learners'"),
        ({"learners": ["ridge"]}, "'learners'"),
        ({"learners": {"ridge": 1}}, "'learners/ridge'"),
        ({"sha256": "a" * 64}, "'sha256'"),
        ({"weights": {"file": "w"}, "sha256": "A" * 64}, "'sha256'"),
        ({"weights": {"file": "w"}, "sha256": None}, "'sha256'"),
        ({"weights": {"file": "w", "url": "x"}, "sha256": "a" * 64}, "'weights'.*unknown keys"),
        ({"weights": {"file": None}, "sha256": "a" * 64}, "'weights/file'"),
        ({"weights": {"file": "../w"}, "sha256": "a" * 64}, "'weights/file'"),
        ({"weights": {"file": "/w"}, "sha256": "a" * 64}, "'weights/file'"),
        ({"weights": {"package": "a.b", "path": "w"}, "sha256": "a" * 64}, "'weights/package'"),
        ({"weights": {"package": "a"}, "sha256": "a" * 64}, "missing keys \\['path'\\]"),
        ({"scores": [SCORE | {"accuracy": 98.8}]}, "'scores/0/accuracy'"),
        ({"scores": [SCORE, {}]}, "'scores/1'"),
        ({"scores": {}}, "'scores'"),
    ],
)
def test_a_wrong_card_is_refused_by_the_name_of_its_key(
    tiny_card: Callable[..., Card], changes: dict[str, object], key: str
) -> None:
    with pytest.raises(BadCard, match=key):
        card_from_dict(card_to_dict(tiny_card()) | changes, name="tiny")


def test_a_missing_key_is_named(tiny_card: Callable[..., Card]) -> None:
    values = card_to_dict(tiny_card())
    del values["licence"]
    with pytest.raises(BadCard, match="missing keys \\['licence'\\]"):
        card_from_dict(values, name="tiny")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"card"'])
def test_what_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "card.json"
    path.write_text(text)
    with pytest.raises(BadCard):
        read_card(path)


def test_a_card_in_a_folder_of_another_name_is_refused(tmp_path: Path, tiny_card: Callable[..., Card]) -> None:
    path = tmp_path / "other" / "card.json"
    path.parent.mkdir()
    path.write_text(card_to_json(tiny_card()))
    with pytest.raises(BadCard, match="the name of its folder, 'other'"):
        read_card(path)
