"""The weights of learners lie beside the card: written, verified, loaded."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from app.checkpoints.card import BadCard, Card, LearnerWeights, OwnWeights, PackagedWeights, card_to_dict, read_card
from app.checkpoints.load import CheckpointCorrupt, load, scan
from app.checkpoints.save import save

RATES = {"rates": torch.linspace(0, 1, 5), "step": torch.tensor(3)}
PROJECTION = {"projection.weight": torch.linspace(-1, 1, 16).reshape(2, 8)}


@pytest.fixture
def learnt(tmp_path: Path, tiny_card: Callable[..., Card], tiny_weights: dict[str, torch.Tensor]) -> Path:
    card = tiny_card(learners={"ridge": {}, "protonet": {}, "logistic": {}})
    save(tmp_path, card, tiny_weights, {"ridge": PROJECTION, "protonet": dict(PROJECTION), "logistic": RATES})
    return tmp_path / "tiny"


def rewrite(folder: Path, **changes: object) -> None:
    path = folder / "card.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_what_is_saved_is_loaded_and_equal_weights_share_a_file(learnt: Path) -> None:
    assert sorted(one.name for one in learnt.iterdir()) == [
        "card.json",
        "learner-logistic.safetensors",
        "learner-ridge.safetensors",
        "weights.safetensors",
    ]
    card = read_card(learnt / "card.json")
    assert card.learner_weights["protonet"] == card.learner_weights["ridge"]
    content = (learnt / "learner-logistic.safetensors").read_bytes()
    assert card.learner_weights["logistic"].sha256 == hashlib.sha256(content).hexdigest()
    loaded = load(scan([learnt.parent])["tiny"]).learner_weights
    assert set(loaded) == {"ridge", "protonet", "logistic"}
    for own, expected in ((loaded["ridge"], PROJECTION), (loaded["logistic"], RATES)):
        assert set(own) == set(expected)
        for name, tensor in expected.items():
            assert torch.equal(own[name], tensor)
            assert own[name].dtype == tensor.dtype


def test_learner_weights_do_not_change_the_embeddings_identity(
    tmp_path: Path, learnt: Path, tiny_card: Callable[..., Card], tiny_weights: dict[str, torch.Tensor]
) -> None:
    save(tmp_path / "plain", tiny_card(), tiny_weights)
    plain = load(scan([tmp_path / "plain"])["tiny"])
    assert load(scan([learnt.parent])["tiny"]).sha256 == plain.sha256
    assert plain.learner_weights == {}


def test_a_card_without_learner_weights_is_written_as_before(tiny_card: Callable[..., Card]) -> None:
    assert "learner_weights" not in card_to_dict(tiny_card())


def test_learners_without_weights_get_no_file(
    tmp_path: Path, tiny_card: Callable[..., Card], tiny_weights: dict[str, torch.Tensor]
) -> None:
    card = save(tmp_path, tiny_card(), tiny_weights, {"ridge": {}, "protonet": {}})
    assert card.learner_weights == {}
    assert sorted(one.name for one in (tmp_path / "tiny").iterdir()) == ["card.json", "weights.safetensors"]


def test_learner_weights_keep_their_types_where_the_backbones_are_halved(
    tmp_path: Path, tiny_card: Callable[..., Card], tiny_weights: dict[str, torch.Tensor]
) -> None:
    save(tmp_path, tiny_card(dtype="float16"), tiny_weights, {"ridge": RATES})
    own = load(scan([tmp_path])["tiny"]).learner_weights["ridge"]
    assert own["rates"].dtype == torch.float32


def test_weights_of_a_package_stay_where_they_are(tmp_path: Path, tiny_card: Callable[..., Card]) -> None:
    theirs = PackagedWeights("weights_of_theirs", "w.safetensors")
    card = save(tmp_path, tiny_card(weights=theirs, sha256="a" * 64), None, {"ridge": PROJECTION})
    assert (card.weights, card.sha256) == (theirs, "a" * 64)
    assert sorted(one.name for one in (tmp_path / "tiny").iterdir()) == ["card.json", "learner-ridge.safetensors"]


def test_a_card_that_names_a_file_which_is_not_given_is_not_written(
    tmp_path: Path, tiny_card: Callable[..., Card]
) -> None:
    card = tiny_card(weights=OwnWeights("weights.safetensors"), sha256="a" * 64)
    with pytest.raises(ValueError, match="not given"):
        save(tmp_path, card, None)
    assert list(tmp_path.iterdir()) == []


def test_a_changed_byte_is_refused(learnt: Path) -> None:
    path = learnt / "learner-logistic.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointCorrupt, match=r"'logistic'.*its card says"):
        load(scan([learnt.parent])["tiny"])


def test_a_missing_file_is_refused(learnt: Path) -> None:
    (learnt / "learner-ridge.safetensors").unlink()
    with pytest.raises(CheckpointCorrupt, match=r"'ridge'.*there is no file"):
        load(scan([learnt.parent])["tiny"])


def test_a_file_that_is_no_safetensors_is_refused(learnt: Path) -> None:
    content = b"\x80\x04]."
    (learnt / "learner-ridge.safetensors").write_bytes(content)
    own = {"file": "learner-ridge.safetensors", "sha256": hashlib.sha256(content).hexdigest()}
    rewrite(learnt, learner_weights={"ridge": own})
    with pytest.raises(CheckpointCorrupt, match="no safetensors"):
        load(scan([learnt.parent])["tiny"])


@pytest.mark.parametrize(
    ("own", "key"),
    [
        ({"maml": {"file": "l.safetensors", "sha256": "a" * 64}}, "learner_weights/maml"),
        ({"ridge": {"file": "../l.safetensors", "sha256": "a" * 64}}, "learner_weights/ridge/file"),
        ({"ridge": {"file": "l.safetensors", "sha256": "a"}}, "learner_weights/ridge/sha256"),
        ({"ridge": {"file": "l.safetensors"}}, "sha256"),
        ({"ridge": {"file": 3, "sha256": "a" * 64}}, "learner_weights/ridge/file"),
        ({"ridge": {"file": "l.safetensors", "sha256": "a" * 64, "tokenizer": "t"}}, "tokenizer"),
        ({"ridge": "l.safetensors"}, "learner_weights/ridge"),
        ([], "learner_weights"),
    ],
)
def test_a_wrong_entry_is_refused_by_its_key(models: Path, own: object, key: str) -> None:
    rewrite(models / "tiny", learner_weights=own)
    with pytest.raises(BadCard, match=key):
        scan([models])


def test_the_card_reads_back_as_it_was_written(learnt: Path) -> None:
    card = read_card(learnt / "card.json")
    assert card.learner_weights["logistic"] == LearnerWeights(
        "learner-logistic.safetensors", card.learner_weights["logistic"].sha256
    )
