"""Embeddings by what they were made of: an example that is posted again costs no forward."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from threading import Lock
from typing import Final, Generic, Protocol, TypeAlias, TypeVar, final, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from app.codecs import DecodedExample
from app.core.episode import Features
from app.engine.work import Head, Work
from app.services.catalogue import Kit
from app.services.workers import Workers

T = TypeVar("T")

Row: TypeAlias = NDArray[np.float32]
"""One embedding."""

_BESIDES_BYTES: Final = 512
"""What an entry takes beside its numbers: the key, the array, its place in the table."""


_SMALL_BYTES: Final = 256 * 1024
"""So much is copied where it is: that takes less than the way to a thread."""


@runtime_checkable
class EmbeddingObserver(Protocol):
    """Be quick, be thread-safe, raise nothing."""

    def on_recall(self, hits: int, misses: int) -> None:
        """A support set's new examples were looked up."""

    def on_remember(self, evicted: int, size_bytes: int) -> None:
        """Embeddings came in; `size_bytes` is what is held now."""


@final
class EmbeddingCache:
    """Embeddings of examples, on the CPU, the least recently used go first. Thread-safe.

    The key is the identity of the embedding (weights, architecture, preprocessing, tokenizer) and the SHA-256 of the
    content: the same content decodes to the same, whatever its label and whoever sends it. `budget_bytes` of 0
    turns it off.
    """

    def __init__(self, budget_bytes: int, observer: EmbeddingObserver) -> None:
        self._budget_bytes = budget_bytes
        self._observer = observer
        self._lock = Lock()
        self._rows: OrderedDict[tuple[str, str], Row] = OrderedDict()
        self._size_bytes = 0

    def recall(self, kit: Kit, examples: Sequence[DecodedExample]) -> "Recalled":
        """What is known of a set's new examples; nothing where the inputs are their own embeddings."""
        keys = [(kit.checkpoint.sha256, one.input.sha256) for one in examples]
        if not self._budget_bytes or not keys or kit.checkpoint.card.dim is None:
            return Recalled(self, [], {})
        known = {}
        with self._lock:
            for at, key in enumerate(keys):
                row = self._rows.get(key)
                if row is not None:
                    self._rows.move_to_end(key)
                    known[at] = row
        self._observer.on_recall(len(known), len(keys) - len(known))
        return Recalled(self, keys, known)

    def remember(self, keys: Sequence[tuple[str, str]], features: Float[Tensor, "n dim"]) -> None:
        """Keep embeddings, each for itself; as many as the budget holds. Of many, this takes its time."""
        # Not views, which would hold all rows of their work. Made before the lock is held: the event loop recalls.
        rows = [row.copy() for row in features.numpy()]
        evicted = 0
        with self._lock:
            for key, row in zip(keys, rows, strict=True):
                cost = _cost_bytes(row)
                if key in self._rows or cost > self._budget_bytes:
                    continue
                self._rows[key] = row
                self._size_bytes += cost
                while self._size_bytes > self._budget_bytes:
                    _, gone = self._rows.popitem(last=False)
                    self._size_bytes -= _cost_bytes(gone)
                    evicted += 1
            size_bytes = self._size_bytes
        self._observer.on_remember(evicted, size_bytes)


@final
class Recalled:
    """What was known of the first rows of a work, those of a support set's new examples."""

    def __init__(self, cache: EmbeddingCache, keys: Sequence[tuple[str, str]], known: Mapping[int, Row]) -> None:
        self._cache = cache
        self._keys = keys
        self._known = known

    async def shortened(self, work: Work[T], workers: Workers) -> Work[T]:
        """The work without the rows that are known; its head gets the embeddings of all."""
        if not self._known:
            return work
        if work.inputs.nbytes <= _SMALL_BYTES:
            return self._shortened(work)
        return await workers.decode(self._shortened, work)

    def _shortened(self, work: Work[T]) -> Work[T]:
        rows = torch.tensor([row for row in range(len(work.inputs)) if row not in self._known], dtype=torch.int64)
        head = _Completed(work.head, len(work.inputs), rows, self._known)
        return replace(work, inputs=work.inputs[rows], head=head)

    def remember(self, features: Float[Tensor, "new dim"]) -> None:
        """Keep what was not known; `features` are those of all new examples, on the CPU."""
        fresh = [row for row in range(len(self._keys)) if row not in self._known]
        if fresh:
            self._cache.remember([self._keys[row] for row in fresh], features[fresh])


@final
class _Completed(Generic[T]):
    """A head that gets its work's embeddings in full: those that were computed, and those that were known."""

    def __init__(self, head: Head[T], count: int, rows: Tensor, known: Mapping[int, Row]) -> None:
        self._head = head
        self._count = count
        self._rows = rows
        self._known = known

    def __call__(self, features: Features) -> T:
        known = torch.from_numpy(np.stack(list(self._known.values()))).to(features)
        full = features.new_empty(self._count, known.shape[1])
        full[self._rows] = features
        full[list(self._known)] = known
        return self._head(full)


def _cost_bytes(row: Row) -> int:
    return row.nbytes + _BESIDES_BYTES
