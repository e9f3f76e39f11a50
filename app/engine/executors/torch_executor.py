"""Runs a backbone with torch: anywhere, on the CPU or on CUDA."""

from collections.abc import Callable, Sequence
from typing import final

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor
from torch.nn.functional import pad

from app.backbones._base import Backbone
from app.core.episode import Features
from app.engine.errors import DeviceMemoryFull
from app.engine.executors._base import Executor, is_out_of_memory, no_beat

TOKENS = {"cpu": 2_048, "cuda": 65_536}
"""Padded positions of one forward. More buys no speed, but padding and memory."""


@final
class TorchExecutor(Executor):
    """Eager torch in float32 and evaluation mode, under `no_grad`.

    Rows of mixed lengths are sorted by length and trimmed, so that short ones are not computed at the
    length of the longest. uint8 images travel as they are. When memory runs out the micro-batch is
    halved and tried again; it grows back by one example with every forward that succeeds.
    """

    def __init__(self, backbone: Backbone, device: torch.device, micro_batch_tokens: int | None = None) -> None:
        self.backbone = backbone.to(device).eval()
        self.device = device
        self.dim = backbone.dim
        self._most_examples = backbone.micro_batch_examples(device.type)
        self._examples = self._most_examples
        self._tokens = micro_batch_tokens or TOKENS.get(device.type, TOKENS["cuda"])
        padded = [axis for axis, size in enumerate(backbone.input_shape, start=1) if size is None]
        self._padded_axes = padded if backbone.pads else []

    @torch.no_grad()
    def embed(self, parts: Sequence[Tensor], beat: Callable[[], None] = no_beat) -> Features:
        """Embed all rows, in as few forwards as the micro-batch allows. See `Executor.embed`."""
        if not self._padded_axes:
            rows = parts[0] if len(parts) == 1 else torch.cat(list(parts))
            return _join([self._embed_rows(some, beat) for some in torch.split(rows, self._examples)])
        rows = _cat_padded(parts, self._padded_axes)
        lengths = _lengths(rows, self._padded_axes)
        order, sizes = micro_batches(lengths, self._examples, self._tokens)
        pieces = [self._embed_rows(self._trimmed(rows, lengths, some), beat) for some in torch.split(order, sizes)]
        features = _join(pieces)
        if len(sizes) == 1 and torch.equal(order, torch.arange(len(rows))):
            return features
        return features[order.argsort().to(self.device)]

    def _trimmed(
        self, rows: Shaped[Tensor, "n ..."], lengths: Int64[Tensor, "n axes"], chosen: Int64[Tensor, " m"]
    ) -> Shaped[Tensor, "m ..."]:
        picked = rows[chosen]
        for axis, longest in zip(self._padded_axes, lengths[chosen].amax(0).tolist(), strict=True):
            picked = picked.narrow(axis, 0, longest)
        return picked

    def _embed_rows(self, rows: Shaped[Tensor, "n ..."], beat: Callable[[], None]) -> Features:
        beat()
        try:
            features = self._forward(rows)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        else:
            self._examples = min(self._most_examples, self._examples + 1)
            return features
        # Out of the handler, so that the traceback holds no tensor of the failed forward any more.
        self.free_memory()
        if len(rows) == 1:
            raise DeviceMemoryFull
        half = -(-len(rows) // 2)
        self._examples = half
        return torch.cat([self._embed_rows(some, beat) for some in torch.split(rows, half)])

    def _forward(self, rows: Shaped[Tensor, "n ..."]) -> Features:
        self.forwards += 1
        if self.device.type == "cuda":
            rows = rows.pin_memory().to(self.device, non_blocking=True)
        features: Features = self.backbone(rows)
        if len(features) != len(rows):
            raise RuntimeError(f"the backbone gave {len(features)} rows for {len(rows)}")
        return features

    def free_memory(self) -> None:
        """Give cached blocks back to the device, for the next try."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def micro_batches(
    lengths: Int64[Tensor, "n axes"], most_examples: int, most_tokens: int
) -> tuple[Int64[Tensor, " n"], list[int]]:
    """Order rows of mixed lengths and cut them into forwards: (row indices, sizes of the cuts).

    Short rows come first, and a cut holds at most `most_examples` rows and `most_tokens` positions
    after padding to its longest row; a single longer row makes a cut of its own.
    """
    order = lengths.prod(1).argsort(stable=True)
    sizes = [0]
    longest = [0] * lengths.shape[1]
    for row in lengths[order].tolist():
        longest = [max(pair) for pair in zip(longest, row, strict=True)]
        tokens = sizes[-1] + 1
        for size in longest:
            tokens *= size
        if sizes[-1] and (sizes[-1] == most_examples or tokens > most_tokens):
            sizes.append(0)
            longest = row
        sizes[-1] += 1
    return order, sizes


def _lengths(rows: Shaped[Tensor, "n ..."], axes: Sequence[int]) -> Int64[Tensor, "n axes"]:
    """How far each row reaches along each axis before only zeros come; at least 1."""
    filled = rows != 0
    reaches = []
    for axis in axes:
        others = [other for other in range(1, rows.ndim) if other != axis]
        along = filled.any(others) if others else filled
        positions = torch.arange(1, rows.shape[axis] + 1)
        reaches.append((along * positions).amax(1).clamp(min=1))
    return torch.stack(reaches, 1)


def _cat_padded(parts: Sequence[Tensor], axes: Sequence[int]) -> Shaped[Tensor, "n ..."]:
    if len(parts) == 1:
        return parts[0]
    target = {axis: max(part.shape[axis] for part in parts) for axis in axes}
    padded = []
    for part in parts:
        # `pad` counts from the last axis backwards, a pair (before, after) an axis.
        gaps = [(0, target.get(axis, part.shape[axis]) - part.shape[axis]) for axis in range(part.ndim)]
        padded.append(pad(part, [size for gap in reversed(gaps) for size in gap]))
    return torch.cat(padded)


def _join(pieces: Sequence[Tensor]) -> Features:
    return pieces[0] if len(pieces) == 1 else torch.cat(list(pieces))
