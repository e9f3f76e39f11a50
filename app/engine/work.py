"""What the engine is asked for and what it gives back."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

from jaxtyping import Shaped
from torch import Tensor

from app.core.episode import Features

T = TypeVar("T")

Head: TypeAlias = Callable[[Features], T]
"""Runs on the device thread, under `no_grad`, with the embeddings of one work's inputs (on the device).

It must not leave references to tensors of others behind, and gives its result on the CPU, by `copies.to_host`: what
comes from CUDA may still be on its way, and the device thread waits once for all heads of a batch.
"""


@dataclass(frozen=True)
class Together(Generic[T]):
    """Says that heads may run in one call: those whose works have an equal one, up to `most`.

    `run(heads, features)` gives for each head its result or the error that is its own. Whatever it raises is no one's:
    then the heads run in halves, and at last each alone.
    """

    key: Hashable
    most: int
    run: Callable[[Sequence[Any], Sequence[Features]], Sequence[T | Exception]] = field(compare=False)


@dataclass(eq=False)
class Work(Generic[T]):
    """One request for the device: embed `inputs`, then run `head` on their features.

    `inputs` are `n` rows on the CPU in the backbone's input form; with no rows the backbone is not
    run and the head gets features of shape (0, dim). `deadline_s` is a `time.monotonic()` reading.
    `head_examples` says how many examples the head takes through a backbone itself. Such a heavy head runs after the
    light ones of its batch, on all CPU threads, and calls `beat_now` (`app.core.heartbeat`) between its steps.
    Works of one `task` share what is dealt to it; a work without shares with none. With `together` a head may run in
    one call with others of its batch: heavy ones side by side, light ones that score row by row.
    """

    backbone: str
    inputs: Shaped[Tensor, "n ..."]
    head: Head[T]
    deadline_s: float | None = None
    head_examples: int = 0
    task: str | None = None
    together: Together[T] | None = None

    @property
    def cost_examples(self) -> int:
        """What it takes from the queue's and the batch's budget: its rows, then what its head takes."""
        return max(1, self.inputs.shape[0] + self.head_examples)

    @property
    def scores(self) -> bool:
        """Whether it takes as long as its rows do: its head is light, and does the same for each."""
        return self.together is not None and not self.head_examples


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """A head's result. `device_s` is spent in this work's forwards (shared with its batch-mates) and
    its head, `queue_s` is all the rest of its stay in the engine. `examples` is what the work cost."""

    value: T
    queue_s: float
    device_s: float
    examples: int


@dataclass(frozen=True)
class EngineSettings:
    """What an operator may change about the engine. `None` chooses by the kind of device."""

    queue_examples: int = 4096
    """Decoded examples that may wait; more is 429. One larger work is taken when nothing else waits."""
    queue_s: float = 10.0
    """Seconds of work that may wait, decoded or not, by what a backbone was seen to do; more is 429."""
    batch_examples: int | None = None
    """Most examples of one batch: 64 on a CPU, 512 on CUDA; fewer where so many take long. New work waits for one."""
    micro_batch_tokens: int | None = None
    """Padded positions of one forward over inputs of mixed lengths: 2,048 on a CPU, 65,536 on CUDA."""
    state_cache_bytes: int = 256 * 1024 * 1024
    """Adapted states kept on the device."""
    embedding_cache_bytes: int = 64 * 1024 * 1024
    """Embeddings of examples kept, so that those that are posted again need no forward; 0 keeps none."""
    hang_timeout_s: float = 60.0
    """A forward, a head or a step of a long head that takes longer counts as hung: the device thread is replaced."""

    def __post_init__(self) -> None:
        for name in ("queue_examples", "queue_s", "batch_examples", "micro_batch_tokens", "hang_timeout_s"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be above 0, not {value}")
        for name in ("state_cache_bytes", "embedding_cache_bytes"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be below 0, not {getattr(self, name)}")


@dataclass(frozen=True)
class Health:
    """How the engine is. `ok` while it takes work and its thread beats; a full queue is still ok."""

    ok: bool
    reason: str
    """Empty while `ok`."""
    queue_examples: int
    restarts: int
    last_beat_age_s: float
    """Seconds since the device thread last showed life; 0 while it has nothing to do."""
