"""Arrays in an .npz file: inputs, and a label each."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from numpy.typing import NDArray
from torch import Tensor

from app.codecs import Codec
from app.codecs.image import ImageCodec
from app.codecs.vector import VectorCodec
from app.training.datasets._splits import SplitSettings, classes_of
from app.training.decoding import as_served
from app.training.errors import BadData
from app.training.sampler import Pool


@dataclass(frozen=True)
class Settings(SplitSettings):
    """Of a file of arrays."""

    file: str = field(default="", metadata={"description": "The .npz file; empty: the only one in the folder."})
    inputs: str = field(default="inputs", metadata={"description": "The name of the array of inputs."})
    labels: str = field(default="labels", metadata={"description": "The name of the array of labels."})


def load(folder: Path, split: str, codec: Codec, settings: Settings) -> Pool:
    """The classes of one split.

    By the backbone: images are uint8 (n, height, width) or (n, height, width, 1 or 3), vectors any numbers (n, dim),
    texts token ids (n, tokens) with 0 as padding. Labels are whole numbers or strings (n,), and name the classes.
    Raises: `BadData` for arrays of another kind, too few classes, a class in two splits; `OSError`.
    """
    path = _file(folder, settings.file)
    inputs, labels = _read(path, settings)
    names, of_row = np.unique(labels.astype(str), return_inverse=True)
    known = [str(name) for name in names]
    wanted = classes_of(split, folder, settings, known)
    rows = [np.flatnonzero(of_row == known.index(name)) for name in wanted]
    chosen = _decoded(inputs[np.concatenate(rows)], codec, path.name)
    return Pool.of_classes(torch.split(chosen, [len(one) for one in rows]), wanted)


def _file(folder: Path, name: str) -> Path:
    found = [folder / name] if name else sorted(folder.glob("*.npz"))
    if len(found) != 1:
        raise BadData(f"The folder {folder.name!r} must hold one .npz file, or 'file' name one; it holds {len(found)}.")
    return found[0]


def _read(path: Path, settings: Settings) -> tuple[NDArray[Any], NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            inputs, labels = arrays[settings.inputs], arrays[settings.labels]
    except (ValueError, EOFError, KeyError) as error:
        raise BadData(f"{path.name!r} cannot be read: {error}.") from error
    if labels.ndim != 1 or labels.dtype.kind not in "iuU" or len(labels) != len(inputs) or inputs.ndim < 2:
        raise BadData(
            f"{path.name!r} must hold {settings.inputs!r} (n, ...) and as many {settings.labels!r} (n,), whole "
            f"numbers or strings; they are {inputs.dtype} {list(inputs.shape)} and {labels.dtype} {list(labels.shape)}."
        )
    return inputs, labels


def _decoded(inputs: NDArray[Any], codec: Codec, name: str) -> Shaped[Tensor, "n ..."]:
    """The inputs as the codec delivers them. Raises: `BadData`."""
    kind, axes = inputs.dtype, inputs.ndim
    if isinstance(codec, ImageCodec):
        pixels = inputs[..., None] if axes == 3 else inputs
        if kind == np.uint8 and pixels.ndim == 4 and pixels.shape[-1] in {1, 3}:
            return as_served(np.ascontiguousarray(pixels), codec)
    elif isinstance(codec, VectorCodec):
        if axes == 2 and kind.kind in "iuf" and codec.dim in {None, inputs.shape[1]} and np.isfinite(inputs).all():
            return torch.from_numpy(inputs.astype(np.float32))
    elif axes == 2 and kind.kind in "iu":
        return torch.from_numpy(inputs.astype(np.int64))
    raise BadData(
        f"{name!r} holds inputs of {kind} {list(inputs.shape)}: no {codec.modality}s that the backbone reads."
    )
