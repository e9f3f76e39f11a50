"""Runs a backbone with torch: anywhere, on the CPU or on CUDA."""

from typing import ClassVar, final

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from app.backbones._base import Backbone
from app.core.episode import Features
from app.engine.copies import to_device
from app.engine.executors._base import Executor


@final
class TorchExecutor(Executor):
    """Eager torch in evaluation mode, under `no_grad`."""

    name: ClassVar[str] = "torch"

    def __init__(self, backbone: Backbone, device: torch.device, micro_batch_tokens: int | None = None) -> None:
        super().__init__(backbone, device, micro_batch_tokens)
        if device.type == "cuda":
            # On by default, and convolutions would keep 10 bits of each number's 23: no float32, and another embedding
            # than on the CPU.
            torch.backends.cudnn.allow_tf32 = False
        self.backbone = backbone.to(device).eval()

    def _forward(self, rows: Shaped[Tensor, "n ..."], places: Int64[Tensor, " m"] | None = None) -> Features:
        # Without padding there is nothing to gain.
        if places is not None and len(places) < rows.numel():
            return self.backbone.packed(rows, places)
        features: Features = self.backbone(to_device(rows, self.device))
        return features

    def _free_memory(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
