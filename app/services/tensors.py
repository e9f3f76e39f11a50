"""States and embeddings as bytes: safetensors for states, bare float32 for one embedding."""

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load, save
from torch import Tensor

from app.core.episode import TaskState


def dump_state(state: TaskState) -> bytes:
    """A state as safetensors; equal states give equal bytes."""
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in sorted(state.items())})


def load_state(data: bytes) -> TaskState:
    """The state that `dump_state` wrote."""
    return load(data)


def trace_of(state: TaskState) -> dict[str, list[float]] | None:
    """What a task shows of its inner loop: the support set's loss before each step and at the end, in nats.

    None for a learner without one.
    """
    losses = state.get("support_losses")
    return None if losses is None else {"support_losses": losses.tolist()}


def dump_features(features: Float[Tensor, " dim"]) -> bytes:
    """One embedding as little-endian float32."""
    return features.detach().cpu().numpy().astype("<f4").tobytes()


def load_features(rows: list[bytes], dim: int) -> Float[Tensor, "n dim"]:
    """Embeddings that `dump_features` wrote, as one matrix."""
    flat = np.frombuffer(b"".join(rows), dtype="<f4").astype(np.float32)
    return torch.from_numpy(flat).reshape(len(rows), dim)
