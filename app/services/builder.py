"""Learners over the loaded checkpoints, with what meta-training learned of them; never with what is freshly drawn."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Any, TypeAlias, final

import torch
from torch import Tensor, nn

from app import learners
from app.checkpoints.load import Checkpoint
from app.engine.errors import DeviceMemoryFull, is_out_of_memory
from app.learners._base import Learner

AnyLearner: TypeAlias = Learner[Any]

MOST_BUILT = 256
"""Learners kept. Those of one checkpoint share their own weights, whatever their other settings."""


class LacksOwnWeights(LookupError):
    """The settings ask for weights that the checkpoint does not hold; the message names them."""


@dataclass(frozen=True, eq=False)
class Built:
    """A learner that serves, and the identity that its versions are bound to.

    `sha256` is that of the embedding for a learner without weights of its own, else of the embedding and of those
    weights that its settings ask for.
    """

    learner: AnyLearner
    sha256: str


@dataclass(frozen=True, eq=False)
class _Own:
    """One of a learner's own weights, on the device, and its identity."""

    tensor: Tensor
    sha256: str


@final
class LearnerBuilder:
    """Builds each learner once for each of its settings. Thread-safe."""

    def __init__(self, checkpoints: Mapping[str, Checkpoint], device: torch.device) -> None:
        self._checkpoints = checkpoints
        self._device = device
        self._own = {
            (name, learner): {key: _Own(tensor.to(device), _tensor_sha256(tensor)) for key, tensor in weights.items()}
            for name, checkpoint in checkpoints.items()
            for learner, weights in checkpoint.learner_weights.items()
        }
        self._cached = lru_cache(maxsize=MOST_BUILT)(self._build)
        self._building = Lock()

    def build(self, checkpoint: str, learner: str, settings: Mapping[str, object]) -> Built:
        """The learner in evaluation mode, on the device. The first time takes a while; all that ask meanwhile wait.

        Raises: `LacksOwnWeights`; `UnknownName`, `InvalidSetting` as `learners.build`; `DeviceMemoryFull`.
        """
        try:
            with self._building:
                return self._cached(checkpoint, learner, json.dumps(dict(settings), sort_keys=True))
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise DeviceMemoryFull from error
            raise

    def unused(self, checkpoint: str, learner: str, built: Built) -> list[str]:
        """Names of the learner's stored weights that it does not have with these settings."""
        return sorted(set(self._own.get((checkpoint, learner), {})) - set(built.learner.own_state()))

    def _build(self, checkpoint: str, name: str, settings: str) -> Built:
        loaded = self._checkpoints[checkpoint]
        learner = learners.build(name, loaded.backbone, json.loads(settings)).eval()
        wanted, stored = learner.own_state(), self._own.get((checkpoint, name), {})
        lacking = [key for key in wanted if key not in stored or stored[key].tensor.shape != wanted[key].shape]
        if lacking:
            raise LacksOwnWeights(", ".join(sorted(lacking)))
        own = {key: stored[key] for key in wanted}
        learner.load_own_state({key: one.tensor for key, one in own.items()})
        self._settle(learner, own)
        return Built(learner, _identity(loaded.sha256, own))

    def _settle(self, learner: AnyLearner, own: Mapping[str, _Own]) -> None:
        """Put what is the learner's own on the device, frozen, its weights shared with others of the checkpoint.

        Nothing of the backbone is touched: the device thread may be running it.
        """
        for name, child in learner.named_children():
            if name != "backbone":
                child.to(self._device)
        for parameter in learner.parameters(recurse=False):
            parameter.data = parameter.data.to(self._device)
        for name, buffer in learner.named_buffers(recurse=False):
            setattr(learner, name, buffer.to(self._device))
        for name, parameter in learner.named_parameters():
            if name.startswith("backbone."):
                continue
            parameter.requires_grad_(False)
            if name in own and own[name].tensor.dtype == parameter.dtype and not self._packed(learner, name):
                parameter.data = own[name].tensor

    def _packed(self, learner: AnyLearner, name: str) -> bool:
        """Whether cuDNN keeps the weight in one block with others of its layer, which sharing would break up."""
        module = learner.get_submodule(name.rpartition(".")[0])
        return self._device.type == "cuda" and isinstance(module, nn.RNNBase)


def _identity(embedding: str, own: Mapping[str, _Own]) -> str:
    if not own:
        return embedding
    parts = {"embedding": embedding, "learner": {name: one.sha256 for name, one in own.items()}}
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _tensor_sha256(tensor: Tensor) -> str:
    found = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)}\n".encode())
    found.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
