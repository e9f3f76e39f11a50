"""A torch backbone as an ONNX file, kept in a folder so that it is made once."""

import hashlib
import logging
import tempfile
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Final, final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from app import backbones
from app.backbones._base import Backbone
from app.checkpoints.golden import probe_inputs
from app.checkpoints.load import file_sha256
from app.core.episode import Features
from app.engine.executors._rows import places_of

_logger = logging.getLogger(__name__)

OPSET: Final = 18
_REFERENCE: Final = "embeddings"
_ONNX_SHA256: Final = "onnx_sha256"

_EXPORTING: Final = Lock()
"""The exporter keeps its state in globals: one at a time."""


@final
class _Packed(nn.Module):
    """A backbone's other way to embed, as the exporter wants it: as the one way."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, inputs: Tensor, places: Tensor) -> Features:
        return self.backbone.packed(inputs, places)


@dataclass(frozen=True, eq=False)
class Exported:
    """An exported backbone, and what torch made of the probe inputs when it was exported."""

    path: Path
    reference: Features


def stem(sha256: str) -> str:
    """How the names of a checkpoint's files begin: its identity, then that of the code that exports it."""
    return f"{sha256}-{_code_sha256()[:16]}"


def exported(backbone: Backbone, sha256: str, folder: Path) -> Exported:
    """The backbone's export from the folder; it is made where there is none, or one that is damaged.

    Files appear whole, by a rename; two processes that start at once both write the same. What older code exported
    of the checkpoint is removed. Raises: `OSError` of the disk, and what the exporter raises.
    """
    path, reference_path = (folder / f"{stem(sha256)}{suffix}" for suffix in (".onnx", ".safetensors"))
    found = _read(path, reference_path)
    if found is not None:
        return found
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".new.") as scratch:
        fresh, fresh_reference = Path(scratch) / path.name, Path(scratch) / reference_path.name
        _export(backbone, fresh)
        with torch.no_grad():
            reference: Features = backbone(probe_inputs(backbone))
        save_file({_REFERENCE: reference}, fresh_reference, metadata={_ONNX_SHA256: file_sha256(fresh)})
        for old in folder.glob(f"{sha256}-*"):
            if not old.name.startswith(stem(sha256)):
                old.unlink(missing_ok=True)
        # Not synced to the disk: what a power cut damages has another SHA-256 and is made anew.
        fresh.replace(path)
        fresh_reference.replace(reference_path)
    return Exported(path, reference)


def _read(path: Path, reference_path: Path) -> Exported | None:
    if not (path.is_file() and reference_path.is_file()):
        return None
    try:
        with safe_open(reference_path, "pt") as stored:
            sha256 = (stored.metadata() or {}).get(_ONNX_SHA256)
            reference: Tensor = stored.get_tensor(_REFERENCE)
        if file_sha256(path) == sha256:
            return Exported(path, reference)
    except (SafetensorError, OSError, RuntimeError) as error:  # the last where another process replaces it right now
        _logger.warning("an exported backbone cannot be read and is made anew: %s", error)
    else:
        _logger.warning("an exported backbone is damaged and is made anew: %s", path.name)
    return None


def _export(backbone: Backbone, path: Path) -> None:
    rows = probe_inputs(backbone)
    network, inputs = (_Packed(backbone), (rows, places_of(rows))) if backbone.packs else (backbone, (rows,))
    # All of it, the wrapper too: the exporter leaves a network as it found it.
    network.eval()
    axes = {0: "n"}
    if backbone.pads:
        axes |= {axis: f"size_{axis}" for axis, size in enumerate(backbone.input_shape, start=1) if size is None}
    with _EXPORTING, warnings.catch_warnings():
        # It warns that it will go one day, and that branches are settled as they go for these inputs.
        warnings.simplefilter("ignore")
        # The exporter by tracing: the newer one takes ten times as long, and two more packages (decision record 10).
        torch.onnx.export(
            network,
            inputs,
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=["inputs", "places"][: len(inputs)],
            output_names=["embeddings"],
            dynamic_axes={"inputs": axes, "places": {0: "m"}, "embeddings": {0: "n"}},
        )


@lru_cache(maxsize=1)
def _code_sha256() -> str:
    """Of all that settles an export beside the weights: torch, the networks' code, and this file."""
    found = hashlib.sha256(f"torch {torch.__version__}\n".encode())
    for file in [*sorted(Path(backbones.__file__).parent.glob("*.py")), Path(__file__)]:
        found.update(file.read_bytes())
    return found.hexdigest()
