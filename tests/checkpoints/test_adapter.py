"""An adapter: the few weights of a packaged network that meta-training changed."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from app.checkpoints.card import BadCard, PackagedWeights, card_from_dict, card_to_dict, card_to_json
from app.checkpoints.load import CheckpointCorrupt, load, scan
from app.checkpoints.save import ADAPTER_FILE, save

TOKENS = torch.tensor([[3, 4, 5], [6, 7, 0]])


@pytest.fixture
def packaged(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the small checkpoint, its weights moved into a package."""
    package = tmp_path / "packages" / "weights_of_others"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    shutil.move(models / "tiny" / "weights.safetensors", package / "w.safetensors")
    card = replace(scan([models])["tiny"].card, weights=PackagedWeights("weights_of_others", "w.safetensors"))
    (models / "tiny" / "card.json").write_text(card_to_json(card))
    monkeypatch.syspath_prepend(package.parent)
    return models


@pytest.fixture
def adapted(packaged: Path) -> dict[str, torch.Tensor]:
    """The adapter that the checkpoint was saved with."""
    plain = load(scan([packaged])["tiny"])
    adapter = {"norm.bias": torch.arange(8.0), "layers.0.wide.bias": torch.ones(16)}
    save(packaged, plain.card, None, adapter=adapter, overwrite=True)
    return adapter


def test_an_adapter_takes_the_place_of_those_weights_alone(
    packaged: Path, tiny_weights: dict[str, torch.Tensor]
) -> None:
    plain = load(scan([packaged])["tiny"])
    save(packaged, plain.card, None, adapter={"norm.bias": torch.arange(8.0)}, overwrite=True)
    loaded = load(scan([packaged])["tiny"])
    weights = loaded.backbone.state_dict()
    assert torch.equal(weights.pop("norm.bias"), torch.arange(8.0))
    assert all(torch.equal(one, tiny_weights[name]) for name, one in weights.items())
    assert not torch.equal(loaded.backbone(TOKENS), plain.backbone(TOKENS))


def test_a_network_with_an_adapter_has_another_identity(packaged: Path, adapted: dict[str, torch.Tensor]) -> None:
    located = scan([packaged])["tiny"]
    with_adapter, without = load(located), load(located, adapted=False)
    assert with_adapter.sha256 != without.sha256
    assert set(with_adapter.adapter) == set(adapted)
    assert not without.adapter
    assert without.card.weights == PackagedWeights("weights_of_others", "w.safetensors")


def test_saving_the_same_adapter_again_keeps_the_identity(packaged: Path, adapted: dict[str, torch.Tensor]) -> None:
    first = load(scan([packaged])["tiny"])
    save(packaged, replace(first.card, name="copy"), None, adapter=first.adapter)
    assert load(scan([packaged])["copy"]).sha256 == first.sha256


def test_a_changed_byte_in_the_adapter_is_refused(packaged: Path, adapted: dict[str, torch.Tensor]) -> None:
    path = packaged / "tiny" / ADAPTER_FILE
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointCorrupt, match=r"adapter of 'tiny'.*its card says"):
        load(scan([packaged])["tiny"])
    path.unlink()
    with pytest.raises(CheckpointCorrupt, match="there is no file"):
        load(scan([packaged])["tiny"])


@pytest.mark.parametrize("adapter", [{"nowhere.bias": torch.ones(8)}, {"norm.bias": torch.ones(9)}])
def test_an_adapter_that_does_not_fit_is_refused(packaged: Path, adapter: dict[str, torch.Tensor]) -> None:
    save(packaged, scan([packaged])["tiny"].card, None, adapter=adapter, overwrite=True)
    with pytest.raises(CheckpointCorrupt, match="adapter"):
        load(scan([packaged])["tiny"])


def test_a_card_names_an_adapter_with_its_sha256_or_not_at_all(
    packaged: Path, adapted: dict[str, torch.Tensor]
) -> None:
    raw = json.loads((packaged / "tiny" / "card.json").read_text())
    assert card_to_dict(card_from_dict(raw, name="tiny"))["weights"] == raw["weights"]
    del raw["weights"]["adapter_sha256"]
    with pytest.raises(BadCard, match="adapter_sha256"):
        card_from_dict(raw, name="tiny")
    raw["weights"] |= {"adapter_sha256": "a" * 64, "adapter": "../elsewhere.safetensors"}
    with pytest.raises(BadCard, match="weights/adapter"):
        card_from_dict(raw, name="tiny")
