"""Loading verifies what it loads."""

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from app.checkpoints.card import BadCard, Card, PackagedWeights, card_to_json
from app.checkpoints.load import CheckpointCorrupt, PackageMissing, load, load_all, scan
from app.checkpoints.save import save
from app.config import bundled_models

TOKENS = torch.tensor([[3, 4, 5], [6, 7, 0]])


def rewrite(models: Path, **changes: object) -> None:
    path = models / "tiny" / "card.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_saved_checkpoint_loads_frozen_with_its_weights(models: Path, tiny_weights: dict[str, torch.Tensor]) -> None:
    checkpoint = load(scan([models])["tiny"])
    loaded = checkpoint.backbone.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tiny_weights.items())
    assert not checkpoint.backbone.training
    assert checkpoint.backbone(TOKENS).shape == (2, 8)
    assert not checkpoint.backbone(TOKENS).requires_grad


def test_a_changed_byte_in_the_weights_is_refused(models: Path) -> None:
    path = models / "tiny" / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointCorrupt, match="its card says"):
        load(scan([models])["tiny"])


def test_missing_weights_are_refused(models: Path) -> None:
    (models / "tiny" / "weights.safetensors").unlink()
    with pytest.raises(CheckpointCorrupt, match="there is no file"):
        load(scan([models])["tiny"])


def test_weights_that_are_no_safetensors_are_refused(models: Path) -> None:
    content = b"\x80\x04]."
    (models / "tiny" / "weights.safetensors").write_bytes(content)
    rewrite(models, sha256=hashlib.sha256(content).hexdigest())
    with pytest.raises(CheckpointCorrupt, match="do not fit"):
        load(scan([models])["tiny"])


def test_weights_of_another_shape_are_refused(models: Path) -> None:
    card = json.loads((models / "tiny" / "card.json").read_text())
    rewrite(models, architecture_settings=card["architecture_settings"] | {"hidden": 32})
    with pytest.raises(CheckpointCorrupt, match="size mismatch"):
        load(scan([models])["tiny"])


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": "nothing"},
        {"architecture_settings": {"depth": 2}},
        {"dim": 9},
        {"modality": "vector"},
    ],
)
def test_a_card_that_its_architecture_contradicts_is_refused(models: Path, changes: dict[str, object]) -> None:
    rewrite(models, **changes)
    with pytest.raises(BadCard, match="tiny"):
        load(scan([models])["tiny"])


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"description": "Other words.", "licence": "MIT", "learners": {"ridge": {}}, "scores": []}, True),
        ({"preprocessing": {"max_tokens": 8}}, False),
    ],
)
def test_the_identity_covers_what_makes_the_embedding_and_no_more(
    models: Path, changes: dict[str, object], same: bool
) -> None:
    before = load(scan([models])["tiny"]).sha256
    rewrite(models, **changes)
    assert (load(scan([models])["tiny"]).sha256 == before) is same


def test_the_identity_covers_the_weights(
    tmp_path: Path, models: Path, tiny_card: Callable[..., Card], tiny_weights: dict[str, torch.Tensor]
) -> None:
    changed = tiny_weights | {"segment": tiny_weights["segment"] + 1}
    save(tmp_path / "changed", tiny_card(), changed)
    assert load(scan([models])["tiny"]).sha256 != load(scan([tmp_path / "changed"])["tiny"]).sha256


def test_the_identity_covers_the_tokenizer(models: Path) -> None:
    card = json.loads((models / "tiny" / "card.json").read_text())
    rewrite(models, weights=card["weights"] | {"tokenizer": "tokenizer.json"})
    located = scan([models])["tiny"]
    with pytest.raises(CheckpointCorrupt, match="tokenizer"):
        load(located)
    (models / "tiny" / "tokenizer.json").write_text("{}")
    first = load(located)
    (models / "tiny" / "tokenizer.json").write_text("{} ")
    assert first.tokenizer_path == models / "tiny" / "tokenizer.json"
    assert load(located).sha256 != first.sha256


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_stored_in_half_precision_compute_in_float32(
    tmp_path: Path, tiny_card: Callable[..., Card], tiny_weights: dict[str, torch.Tensor], dtype: str
) -> None:
    save(tmp_path, tiny_card(dtype=dtype), tiny_weights)
    backbone = load(scan([tmp_path])["tiny"]).backbone
    kind = getattr(torch, dtype)
    assert all(torch.equal(backbone.state_dict()[name], tiny_weights[name].to(kind).float()) for name in tiny_weights)
    assert backbone(TOKENS).dtype == torch.float32


def test_a_later_folder_overrides_a_name(
    tmp_path: Path, models: Path, tiny_card: Callable[..., Card], tiny_weights: dict[str, torch.Tensor]
) -> None:
    mine = tmp_path / "mine"
    save(mine, tiny_card(description="Mine."), tiny_weights)
    assert scan([models, mine])["tiny"].card.description == "Mine."
    assert scan([mine, models])["tiny"].card.description == "For tests."


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError):
        scan([tmp_path / "nowhere"])


def test_a_missing_package_and_an_unknown_name_are_left_out_with_the_reason(
    models: Path, tiny_card: Callable[..., Card]
) -> None:
    card = tiny_card(name="theirs", weights=PackagedWeights("not_installed", "w.safetensors"), sha256="a" * 64)
    (models / "theirs").mkdir()
    (models / "theirs" / "card.json").write_text(card_to_json(card))
    loaded, left_out = load_all([models])
    assert list(loaded) == ["tiny"]
    assert "pip install not-installed" in left_out["theirs"]
    loaded, left_out = load_all([models], {"nobody"})
    assert not loaded
    assert list(left_out) == ["nobody"]
    with pytest.raises(PackageMissing):
        load(scan([models])["theirs"])


def test_a_damaged_checkpoint_is_not_passed_over(models: Path) -> None:
    rewrite(models, sha256="0" * 64)
    with pytest.raises(CheckpointCorrupt):
        load_all([models])


def test_weights_in_a_package_load_without_importing_it(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "packages" / "weights_of_theirs"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    shutil.move(models / "tiny" / "weights.safetensors", package / "data" / "w.safetensors")
    located = scan([models])["tiny"]
    weights = PackagedWeights("weights_of_theirs", "data/w.safetensors")
    (models / "tiny" / "card.json").write_text(card_to_json(replace(located.card, weights=weights)))
    monkeypatch.syspath_prepend(package.parent)
    assert load(scan([models])["tiny"]).backbone(TOKENS).shape == (2, 8)
    assert "weights_of_theirs" not in sys.modules


def test_loading_draws_no_random_numbers(models: Path) -> None:
    before = torch.random.get_rng_state()
    load(scan([models])["tiny"])
    load_all([bundled_models()], {"tiny-resnet12", "photo-efficientnet-lite0", "text-minilm"})
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_network_without_a_file_of_weights_is_drawn(models: Path, tiny_card: Callable[..., Card]) -> None:
    (models / "tiny" / "card.json").write_text(card_to_json(tiny_card()))
    assert load(scan([models])["tiny"]).backbone.state_dict()["words.weight"].std() > 0.5


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux says what is mapped")
def test_weights_in_single_precision_are_those_of_the_mapped_file(models: Path) -> None:
    state = load(scan([models])["tiny"]).backbone.state_dict()
    path = str(models / "tiny" / "weights.safetensors")
    lines = [line.split()[0] for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(path)]
    spans = [range(*(int(end, 16) for end in line.split("-"))) for line in lines]
    assert [name for name, one in state.items() if not any(one.data_ptr() in span for span in spans)] == []


def test_what_is_trained_further_leaves_the_file_as_it_is(models: Path) -> None:
    content = (models / "tiny" / "weights.safetensors").read_bytes()
    checkpoint = load(scan([models])["tiny"])
    with torch.no_grad():
        for parameter in checkpoint.backbone.parameters():
            parameter.add_(1.0)
    assert (models / "tiny" / "weights.safetensors").read_bytes() == content
