"""Copies between the CPU and a device that nobody waits for on the way."""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """On the device. What it is copied from may be let go at once, but must not be changed in place."""
    return tensor.to(device, non_blocking=True)


def to_host(tensor: Tensor) -> Tensor:
    """On the CPU. From CUDA the copy may still be under way, into pinned memory: the device thread waits once for
    those of a batch (`app.engine.clock`) before it hands out answers, so a head must not read what it copied."""
    return tensor.detach().to("cpu", non_blocking=True)
