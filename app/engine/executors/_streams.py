"""A forward as several side by side, each on a thread of its own."""

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from app.backbones._base import Backbone
from app.core.episode import Features
from app.engine.executors._base import Executor
from app.engine.executors._rows import places_of

ROWS_A_STREAM: Final = 2
"""Fewer rows a stream, and all threads work on each row together: who asks alone shall not wait for one thread."""

Wait: TypeAlias = Callable[[], Features]
"""Waits for what was begun, and gives its features."""


class StreamsExecutor(Executor):
    """An exported backbone on as many threads as torch has.

    Threads that share a forward wait for each other after each layer, and all of them for the one that the operating
    system took from its core. So a forward of enough rows is parted among *streams*, a thread each, which meet once,
    at the end (decision record 19).
    """

    def __init__(self, backbone: Backbone, exported: Path, micro_batch_tokens: int | None = None) -> None:
        super().__init__(backbone, torch.device("cpu"), micro_batch_tokens)
        self.streams = torch.get_num_threads()
        self._open(exported)

    def _forward(self, rows: Shaped[Tensor, "n ..."], places: Int64[Tensor, " m"] | None = None) -> Features:
        if self.streams == 1 or len(rows) < ROWS_A_STREAM * self.streams:
            return self._together(rows, places)
        # Rows come sorted by length: every so many-th makes streams of equal work.
        parts = [rows[stream :: self.streams].contiguous() for stream in range(self.streams)]
        return _interleaved(len(rows), self._side_by_side(parts, packed=places is not None))

    def _side_by_side(self, parts: list[Tensor], packed: bool) -> list[Tensor]:
        """The features of each part. The first error is raised when no stream computes any more."""
        waits: list[Wait] = []
        pieces: list[Tensor] = []
        errors: list[Exception] = []
        for stream, part in enumerate(parts):
            try:
                waits.append(self._begin(stream, part, places_of(part) if packed else None))
            except Exception as error:  # noqa: BLE001 - raised below
                errors.append(error)
        for wait in waits:
            try:
                pieces.append(wait())
            except Exception as error:  # noqa: BLE001 - raised below
                errors.append(error)
        if errors:
            raise errors[0]
        return pieces

    @abstractmethod
    def _open(self, exported: Path) -> None:
        """Read or compile the export, for all threads together and for each stream."""

    @abstractmethod
    def _together(self, rows: Shaped[Tensor, "n ..."], places: Int64[Tensor, " m"] | None) -> Features:
        """Embed by all threads together."""

    @abstractmethod
    def _begin(self, stream: int, rows: Shaped[Tensor, "n ..."], places: Int64[Tensor, " m"] | None) -> Wait:
        """Begin to embed on one thread, while others do."""


def _interleaved(count: int, pieces: list[Tensor]) -> Features:
    """Rows dealt to streams by turns, in their order again."""
    features = torch.empty(count, pieces[0].shape[1], dtype=pieces[0].dtype)
    for stream, piece in enumerate(pieces):
        features[stream :: len(pieces)] = piece
    return features
