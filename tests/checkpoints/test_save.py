"""Saving writes a whole folder or none."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from app.checkpoints import save as save_module
from app.checkpoints.card import Card, read_card
from app.checkpoints.save import save


def test_the_card_that_is_returned_is_the_one_on_disk(
    tmp_path: Path, tiny_card: Callable[..., Card], tiny_weights: dict[str, torch.Tensor]
) -> None:
    card = save(tmp_path, tiny_card(), tiny_weights)
    assert read_card(tmp_path / "tiny" / "card.json") == card
    content = (tmp_path / "tiny" / "weights.safetensors").read_bytes()
    assert hashlib.sha256(content).hexdigest() == card.sha256
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny"]


def test_the_same_weights_give_the_same_bytes(
    tmp_path: Path, tiny_card: Callable[..., Card], tiny_weights: dict[str, torch.Tensor]
) -> None:
    backwards = dict(reversed(tiny_weights.items()))
    first = save(tmp_path / "a", tiny_card(), tiny_weights)
    assert save(tmp_path / "b", tiny_card(), backwards).sha256 == first.sha256


def test_a_checkpoint_that_is_there_is_kept_unless_told_otherwise(
    models: Path, tiny_card: Callable[..., Card], tiny_weights: dict[str, torch.Tensor]
) -> None:
    with pytest.raises(FileExistsError, match="tiny"):
        save(models, tiny_card(description="New."), tiny_weights)
    assert read_card(models / "tiny" / "card.json").description == "For tests."
    save(models, tiny_card(description="New."), tiny_weights, overwrite=True)
    assert read_card(models / "tiny" / "card.json").description == "New."
    assert [path.name for path in models.iterdir()] == ["tiny"]


def test_a_failed_write_leaves_nothing_behind(
    tmp_path: Path,
    tiny_card: Callable[..., Card],
    tiny_weights: dict[str, torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(card: Card) -> str:
        raise OSError("disk full")

    monkeypatch.setattr(save_module, "card_to_json", fail)
    with pytest.raises(OSError, match="disk full"):
        save(tmp_path, tiny_card(), tiny_weights)
    assert list(tmp_path.iterdir()) == []


def test_whole_numbers_keep_their_type(tmp_path: Path, tiny_card: Callable[..., Card]) -> None:
    from safetensors.torch import load_file

    save(tmp_path, tiny_card(dtype="float16"), {"counter": torch.tensor(3), "weight": torch.ones(2)})
    stored = load_file(tmp_path / "tiny" / "weights.safetensors")
    assert stored["counter"].dtype == torch.int64
    assert stored["weight"].dtype == torch.float16
