"""Copies between the CPU and a device that nobody waits for on the way."""

from typing import Final

import torch
from torch import Tensor

from app.engine.errors import is_out_of_memory

SMALL_BYTES: Final = 64 * 1024
"""Up to so many CUDA takes its own copy before it comes back; of more it waits, unless the memory is pinned."""


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """On the device. What it is copied from may be let go at once, but must not be changed in place.

    Pinned memory that is let go is used again no earlier than the copy has ended: torch sees to that.
    """
    if device.type == "cuda" and tensor.device.type == "cpu" and tensor.nbytes > SMALL_BYTES:
        tensor = pinned(tensor)
    return tensor.to(device, non_blocking=True)


def pinned(tensor: Tensor) -> Tensor:
    """In pinned memory where the system has any left; else as it is, and its copy waits."""
    try:
        return tensor.pin_memory()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return tensor


def to_host(tensor: Tensor) -> Tensor:
    """On the CPU. From CUDA the copy may still be under way, into pinned memory: the device thread waits once for
    those of a batch (`app.engine.clock`) before it hands out answers, so a head must not read what it copied."""
    return tensor.detach().to("cpu", non_blocking=True)
