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

from app.checkpoints.card import CARD_FILE, Card, LearnerWeights, OwnWeights, PackagedWeights, card_to_json

WEIGHTS_FILE: Final = "weights.safetensors"
ADAPTER_FILE: Final = "adapter.safetensors"
LEARNER_FILE: Final = "learner-{learner}.safetensors"

_NONE: Final[Mapping[str, Mapping[str, Tensor]]] = {}


def save(
    models: Path,
    card: Card,
    weights: Mapping[str, Tensor] | None,
    learner_weights: Mapping[str, Mapping[str, Tensor]] = _NONE,
    *,
    adapter: Mapping[str, Tensor] | None = None,
    overwrite: bool = False,
) -> Card:
    """Write `models/<card.name>/` and return the card as written.

    What the card says of files (`weights`, `sha256`, `learner_weights`) is filled in here: of `weights`, with
    floating-point tensors stored as the card's `dtype`; where they are `None`, the card keeps the package that it
    names, or no weights. `learner_weights` are each learner's `own_state()`, stored in their own types; learners
    whose weights are equal share a file, and one without any gets none. `adapter` are those weights of a packaged
    network that take the place of the package's. Same weights and card, same bytes.

    The folder appears whole, by a rename. With `overwrite`, one that was there is renamed away first and removed
    after; a crash in between leaves it beside, under a name that starts with a dot.

    Raises: `FileExistsError` where the folder is there and not to be overwritten; `OSError` of the disk;
    `ValueError` for a card that names a file beside it which is not given; `BadCard` for learner weights of a learner
    that the card does not serve.
    """
    target = models / card.name
    if target.exists() and not overwrite:
        raise FileExistsError(f"There is a checkpoint {card.name!r} already.")
    files, written = _learner_files(card, learner_weights)
    if weights is not None:
        content = to_safetensors(
            {name: _stored(tensor, getattr(torch, card.dtype)) for name, tensor in weights.items()}
        )
        files[WEIGHTS_FILE] = content
        written = replace(written, weights=OwnWeights(WEIGHTS_FILE), sha256=_sha256(content))
    elif isinstance(card.weights, PackagedWeights):
        if adapter:
            files[ADAPTER_FILE] = to_safetensors({name: _stored(one, one.dtype) for name, one in adapter.items()})
        digest = _sha256(files[ADAPTER_FILE]) if adapter else None
        named = replace(card.weights, adapter=ADAPTER_FILE if adapter else None, adapter_sha256=digest)
        written = replace(written, weights=named)
    elif isinstance(card.weights, OwnWeights):
        raise ValueError(f"the card of {card.name!r} names the file {card.weights.file!r}, whose weights are not given")
    models.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=models, prefix=f".{card.name}.") as scratch:
        fresh, former = Path(scratch) / "new", Path(scratch) / "old"
        fresh.mkdir()
        for name, content in files.items():
            _write(fresh / name, content)
        _write(fresh / CARD_FILE, card_to_json(written).encode())
        if target.exists():
            target.rename(former)
        fresh.rename(target)
        _sync_folder(models)
    return written


def _learner_files(card: Card, learner_weights: Mapping[str, Mapping[str, Tensor]]) -> tuple[dict[str, bytes], Card]:
    """The learners' files by name, and the card that names them."""
    names: dict[str, str] = {}
    files: dict[str, bytes] = {}
    found: dict[str, LearnerWeights] = {}
    for learner, own in learner_weights.items():
        if not own:
            continue
        content = to_safetensors({name: _stored(tensor, tensor.dtype) for name, tensor in own.items()})
        sha256 = _sha256(content)
        name = names.setdefault(sha256, LEARNER_FILE.format(learner=learner))
        files[name] = content
        found[learner] = LearnerWeights(name, sha256)
    return files, replace(card, learner_weights=found)


def _stored(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    kind = dtype if tensor.is_floating_point() else tensor.dtype
    return tensor.detach().to("cpu", kind).contiguous()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


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
