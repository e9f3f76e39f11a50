"""What every executor is: a way to run a checkpoint's frozen backbone, in micro-batches."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from app.backbones._base import Backbone
from app.core.episode import Features
from app.engine.copies import to_device
from app.engine.errors import DeviceMemoryFull, is_out_of_memory
from app.engine.executors._rows import cat_padded, join, lengths_of, micro_batches, places_of, trimmed

TOKENS = {"cpu": 2_048, "cuda": 65_536}
"""Padded positions of one forward. More buys no speed, but padding and memory."""

START_TOKENS = {"cpu": 24, "cuda": 4_096}
"""Positions whose computation takes as long as a forward takes to begin. Seen on a CPU: 23 to 40, whatever runs it, and
little depends on it (decision records 13 and 16); estimated on CUDA."""


def no_beat() -> None:
    """For callers without a heartbeat."""


class Executor(ABC):
    """Runs one frozen backbone on one device, in float32. Only the device thread calls it.

    Rows of mixed lengths are sorted by length and trimmed, so that short ones are not computed at the
    length of the longest; on a CPU, a backbone that can gets them packed, so that next to no padding is
    computed at all. uint8 images travel as they are. When memory runs out the micro-batch is
    halved and tried again; it grows back by one example with every forward that succeeds.
    """

    name: ClassVar[str]
    """What it is asked for by."""

    precision: ClassVar[str] = "float32"

    dim: int | None
    """Size of an embedding; `None` means that of the input."""
    forwards: int = 0
    """Forwards run until now, retries too."""
    enough_examples: int | None = None
    """A batch of more has no gain, as measured on this machine; `None` where nothing was measured."""

    def __init__(self, backbone: Backbone, device: torch.device, micro_batch_tokens: int | None = None) -> None:
        self.device = device
        self.dim = backbone.dim
        self.most_examples = backbone.micro_batch_examples(device.type)
        self._examples = self.most_examples
        self._tokens = micro_batch_tokens or TOKENS.get(device.type, TOKENS["cuda"])
        self._start_tokens = START_TOKENS.get(device.type, START_TOKENS["cuda"])
        padded = [axis for axis, size in enumerate(backbone.input_shape, start=1) if size is None]
        self._padded_axes = padded if backbone.pads else []
        self._longest = backbone.longest
        self._can_pack = backbone.packs

    @property
    def packs(self) -> bool:
        """Are rows packed? On CUDA, where padding is computed beside the rest, what it gains was not measured."""
        return self._can_pack and self.device.type == "cpu"

    def no_features(self, inputs: Tensor) -> Features:
        """What a head gets for a work without rows: shape (0, dim)."""
        of_input = inputs.shape[-1] if inputs.ndim > 1 else 0
        return torch.empty(0, of_input if self.dim is None else self.dim, device=self.device)

    @torch.no_grad()
    def embed(self, parts: Sequence[Tensor], beat: Callable[[], None] = no_beat) -> Features:
        """Embed the rows of all parts (each (n_i, ...), on the CPU) in their order.

        The parts agree in type and in the sizes of all axes that are not padded. There are as few forwards as the
        micro-batch allows; `beat` is called between them, and what it raises goes through. The features are on the
        device, float32. Raises: `DeviceMemoryFull`, `ValueError` for an input that is too long, and what the backbone
        raises.
        """
        axes = self._padded_axes
        if not axes:
            return join([self._embed_rows(some, beat) for some in torch.split(join(parts), self._examples)])
        rows = cat_padded(parts, axes)
        lengths = lengths_of(rows, axes)
        if self._longest is not None and int(lengths.max()) > self._longest:
            # Asked by us: a library may answer with what it answered last.
            raise ValueError(f"an input of {int(lengths.max())} positions is longer than {self._longest}")
        order, sizes = micro_batches(lengths, self._examples, self._tokens, self._start_tokens, self.packs)
        pieces = [self._embed_rows(trimmed(rows, axes, lengths, some), beat) for some in torch.split(order, sizes)]
        features = join(pieces)
        if len(sizes) == 1 and torch.equal(order, torch.arange(len(rows))):
            return features
        return features[to_device(order.argsort(), self.device)]

    def _embed_rows(self, rows: Shaped[Tensor, "n ..."], beat: Callable[[], None]) -> Features:
        beat()
        self.forwards += 1
        try:
            features = self._forward(rows, places_of(rows) if self.packs else None)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        else:
            if len(features) != len(rows):
                raise RuntimeError(f"the backbone gave {len(features)} rows for {len(rows)}")
            self._examples = min(self.most_examples, self._examples + 1)
            return features
        # Out of the handler, so that the traceback holds no tensor of the failed forward any more.
        self._free_memory()
        if len(rows) == 1:
            raise DeviceMemoryFull
        half = -(-len(rows) // 2)
        self._examples = half
        return torch.cat([self._embed_rows(some, beat) for some in torch.split(rows, half)])

    @abstractmethod
    def _forward(self, rows: Shaped[Tensor, "n ..."], places: Int64[Tensor, " m"] | None = None) -> Features:
        """Embed so many rows at once; where they are packed, what stands at the places and no more."""

    def renew(self) -> None:  # noqa: B027 - most hold nothing of whoever runs them
        """Let go of what a thread that hung in a forward still uses; another is about to run this."""

    def _free_memory(self) -> None:  # noqa: B027 - most have nothing to give back
        """Give cached memory back to the device, for the next try."""
