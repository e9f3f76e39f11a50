"""Which executors can run a checkpoint's backbone here: the one place that names them to the benchmarks."""

from pathlib import Path
from typing import get_args

import torch

from app.checkpoints.load import Checkpoint
from app.engine.executors._base import Executor
from app.engine.executors.choose import TORCH, ExecutorName, Wish, choose, installed


def offered(checkpoint: Checkpoint, device: torch.device, folder: Path) -> dict[str, Executor]:
    """All that the engine could choose for this checkpoint on this device, by name; exports go to the folder."""
    compiled = [name for name in get_args(ExecutorName) if name not in ("auto", TORCH)]
    names = [TORCH, *(name for name in compiled if device.type == "cpu" and installed(name))]
    chosen = [choose(checkpoint.backbone, checkpoint.sha256, device, Wish(name, folder)) for name in names]
    # What cannot run this backbone gives torch again.
    return {one.executor.name: one.executor for one in chosen}
