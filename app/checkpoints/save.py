"""Checkpoints to disk: a folder with weights and card, whole or not at all."""

import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor

from app.checkpoints.card import CARD_FILE, Card, OwnWeights, card_to_json

WEIGHTS_FILE: Final = "weights.safetensors"


def save(models: Path, card: Card, weights: Mapping[str, Tensor], *, overwrite: bool = False) -> Card:
    """Write `models/<card.name>/` and return the card as written.

    The card comes without weights and sha256 (both null): they are filled in here. Floating-point tensors are stored
    as the card's `dtype`. Same weights and card, same bytes.

    The folder appears whole, by a rename. With `overwrite`, one that was there is renamed away first and removed
    after; a crash in between leaves it beside, under a name that starts with a dot.

    Raises: `FileExistsError` where the folder is there and not to be overwritten; `OSError` of the disk.
    """
    target = models / card.name
    if target.exists() and not overwrite:
        raise FileExistsError(f"There is a checkpoint {card.name!r} already.")
    content = to_safetensors({name: _stored(tensor, card.dtype) for name, tensor in weights.items()})
    written = replace(card, weights=OwnWeights(WEIGHTS_FILE), sha256=hashlib.sha256(content).hexdigest())
    models.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=models, prefix=f".{card.name}.") as scratch:
        fresh, former = Path(scratch) / "new", Path(scratch) / "old"
        fresh.mkdir()
        _write(fresh / WEIGHTS_FILE, content)
        _write(fresh / CARD_FILE, card_to_json(written).encode())
        if target.exists():
            target.rename(former)
        fresh.rename(target)
        _sync_folder(models)
    return written


def _stored(tensor: Tensor, dtype: str) -> Tensor:
    kind = getattr(torch, dtype) if tensor.is_floating_point() else tensor.dtype
    return tensor.detach().to("cpu", kind).contiguous()


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
