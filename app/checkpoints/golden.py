"""Reference embeddings: what a checkpoint gave in float64 for inputs that arithmetic makes.

    python -m app.checkpoints.golden MODELS OUT [NAME ...]

writes `OUT/<name>.safetensors` for every checkpoint in MODELS, or those named. A machine, a version of torch or a
change of a backbone that embeds otherwise shows against them. The inputs come from whole-number arithmetic, not from
decoding a file, so that they are the same everywhere.
"""

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from jaxtyping import Float, Float64, Shaped
from safetensors.torch import save
from torch import Tensor

from app.backbones._base import Backbone
from app.checkpoints.load import Checkpoint, load_all

_FIRST_TOKEN: Final = 101
_LAST_TOKEN: Final = 102
_WORDS_FROM: Final = 2000
_WORDS: Final = 8000
_VECTOR_DIM: Final = 12
_TEXT_TOKENS: Final = (2, 3, 7, 24, 64)


def probe_inputs(backbone: Backbone) -> Shaped[Tensor, "n ..."]:
    """A few inputs in the backbone's input form, the same on every machine.

    Images: black, white, a ramp, a chequerboard, a pattern of all grey values. Texts: of 2 to 64 tokens, padded with
    0. Vectors: of 12 numbers, where the backbone takes any size.
    """
    if backbone.modality == "image":
        return _images(backbone.input_shape)
    if backbone.modality == "text":
        return _texts()
    return _vectors(backbone.input_shape[0] or _VECTOR_DIM)


def reference(checkpoint: Checkpoint) -> Float64[Tensor, "n dim"]:
    """Embed the probe inputs in float64. The checkpoint's backbone is left in float64."""
    inputs = probe_inputs(checkpoint.backbone)
    backbone = checkpoint.backbone.double()
    with torch.no_grad():
        embeddings: Float[Tensor, "n dim"] = backbone(inputs)
    return embeddings.double()


def _images(shape: Sequence[int | None]) -> Tensor:
    channels, height, width = (size or 1 for size in shape)
    channel = torch.arange(channels)[:, None, None]
    y = torch.arange(height)[:, None]
    x = torch.arange(width)
    flat = torch.zeros(channels, height, width, dtype=torch.int64)
    ramp = flat + (x * 255) // max(width - 1, 1)
    chequers = 255 * ((x // 4 + y // 4 + channel) % 2)
    pattern = (x * y + 37 * channel + (x * 5) // 3 + (y * 7) // 4) % 256
    return torch.stack([flat, flat + 255, ramp, flat + chequers, flat + pattern]).to(torch.uint8)


def _texts() -> Tensor:
    rows = torch.zeros(len(_TEXT_TOKENS), max(_TEXT_TOKENS), dtype=torch.int64)
    for row, tokens in enumerate(_TEXT_TOKENS):
        rows[row, :tokens] = _WORDS_FROM + (torch.arange(tokens) * 7919 + row * 104_729) % _WORDS
        rows[row, 0] = _FIRST_TOKEN
        rows[row, tokens - 1] = _LAST_TOKEN
    return rows


def _vectors(dim: int) -> Tensor:
    # Quarters are exact in binary: no machine rounds them otherwise.
    return ((torch.arange(5 * dim) * 7919) % 101 - 50).reshape(5, dim).float() / 4


def main() -> None:
    """Write the reference of each checkpoint."""
    parser = argparse.ArgumentParser(description="Write reference embeddings in float64.")
    parser.add_argument("models", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    loaded, left_out = load_all([arguments.models], arguments.names or None)
    if left_out:
        sys.exit("\n".join(left_out.values()))
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, checkpoint in loaded.items():
        content = save({"embeddings": reference(checkpoint)}, metadata={"checkpoint_sha256": checkpoint.sha256})
        (arguments.out / f"{name}.safetensors").write_bytes(content)
        sys.stdout.write(f"{name} {hashlib.sha256(content).hexdigest()}\n")


if __name__ == "__main__":
    main()
