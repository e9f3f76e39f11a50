"""Episodes drawn at random. Episode `i` of a run follows from the seed and `i` alone, whoever draws it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor
from torch.nn import functional

from app.core.episode import Episode, Support

_WORD: Final = 2**32


@dataclass(frozen=True, eq=False)
class Pool:
    """The examples of one part, class by class; the classes may have different numbers of examples.

    `labels` are class numbers, ascending; `names[i]` is the name of class `i`. `labels` and `counts` stay on the
    CPU, where episodes are drawn; `inputs` lie where `to` put them.
    Raises: `ValueError` where labels are not sorted, or a class is without examples or name.
    """

    inputs: Shaped[Tensor, "n ..."]
    labels: Int64[Tensor, " labels"]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.labels) != len(self.inputs):
            raise ValueError(f"{len(self.labels)} labels for {len(self.inputs)} inputs")
        if self.labels.is_cuda or bool((self.labels.diff() < 0).any()):
            raise ValueError("the labels of a pool must be in ascending order, on the CPU")
        counts = self.labels.bincount()
        if len(counts) != len(self.names) or not bool(counts.all()):
            raise ValueError(f"{len(self.names)} names for {int(counts.count_nonzero())} classes with examples")

    @staticmethod
    def of_classes(
        inputs: Shaped[Tensor, "classes each ..."] | Sequence[Shaped[Tensor, "_ ..."]],
        names: Sequence[str] | None = None,
    ) -> "Pool":
        """A pool of classes whose examples come together; a tensor (classes, each, ...) will do.

        Without `names`, a class is named by its number.
        """
        counts = torch.tensor([len(one) for one in inputs])
        labels = torch.arange(len(inputs)).repeat_interleave(counts)
        together = inputs.flatten(0, 1) if isinstance(inputs, Tensor) else torch.cat(list(inputs))
        return Pool(together, labels, tuple(map(str, range(len(inputs))) if names is None else names))

    @cached_property
    def counts(self) -> Int64[Tensor, " classes"]:
        """How many examples each class has."""
        return self.labels.bincount()

    @cached_property
    def starts(self) -> Int64[Tensor, " classes"]:
        """The row of each class's first example."""
        return self.counts.cumsum(0) - self.counts

    def to(self, device: torch.device | str) -> "Pool":
        """The same pool with its inputs on a device."""
        return self.with_inputs(self.inputs.to(device))

    def with_inputs(self, inputs: Shaped[Tensor, "_ ..."]) -> "Pool":
        """The same classes with other inputs, row for row: their embeddings, say."""
        return Pool(inputs, self.labels, self.names)

    def take(self, rows: Int64[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """The inputs of some rows, in the shape of `rows`: (way, images) gives (way, images, ...)."""
        flat = rows.flatten().to(self.inputs.device, non_blocking=True)
        return self.inputs.index_select(0, flat).reshape(*rows.shape, *self.inputs.shape[1:])

    def pick(self, classes: Sequence[int]) -> "Pool":
        """The pool of some classes alone, in the order given."""
        starts, counts = self.starts.tolist(), self.counts.tolist()
        parts = [self.inputs[starts[one] : starts[one] + counts[one]] for one in classes]
        return Pool.of_classes(parts, [self.names[one] for one in classes])


def episode_generator(seed: int, index: int) -> torch.Generator:
    """The generator of episode `index` of the run `seed`: the same on every machine and rank, and after a resume.

    Torch's CPU generator looks at 32 bits of its seed. Each run maps its indices one to one onto those, so
    that no two of its first 2^32 episodes share a stream.
    Raises: `ValueError` for an index that is negative or too large.
    """
    if not 0 <= index < _WORD:
        raise ValueError(f"the index of an episode must lie between 0 and 2^32 - 1, not be {index}")
    digest = hashlib.sha256(f"episodes of {seed}".encode()).digest()
    factor, shift = int.from_bytes(digest[:4]) | 1, int.from_bytes(digest[4:8])
    return torch.Generator().manual_seed(_mixed((index * factor + shift) % _WORD))


def draw(pool: Pool, way: int, images: int, generator: torch.Generator) -> Int64[Tensor, "way images"]:
    """Choose `way` classes at random, and `images` different examples of each, in random order: rows of the pool.

    Classes with fewer than `images` examples are passed over. `pool.take(rows)` are the examples.
    Raises: `ValueError` where too few classes are left.
    """
    counts = pool.counts
    fit = (counts >= images).nonzero().flatten()
    if way > len(fit):
        raise ValueError(
            f"an episode needs {way} classes of {images} examples or more; "
            f"the pool has {len(fit)} such classes, {len(counts)} in all"
        )
    chosen = fit[torch.randperm(len(fit), generator=generator)[:way]]
    return pool.starts[chosen, None] + _choose(counts[chosen], images, generator)


def to_episode(inputs: Shaped[Tensor, "way images ..."], shot: int, turn: int = 0) -> Episode:
    """Split the examples of each class into `shot` supports and the rest as queries.

    The supports are those that start at the place `turn`, cyclically: with `shot` 1, each example is the support
    in one of the turns 0 to `images` - 1. Raises: `ValueError` where no query would be left.
    """
    way, images = inputs.shape[:2]
    if not 1 <= shot < images:
        raise ValueError(f"{images} examples a class cannot give {shot} supports and a query")
    turned = inputs.roll(-turn, dims=1)
    labels = torch.arange(way, device=inputs.device)
    support = Support(turned[:, :shot].flatten(0, 1), labels.repeat_interleave(shot), way)
    return Episode(support, turned[:, shot:].flatten(0, 1), labels.repeat_interleave(images - shot))


def joined(pools: Sequence[Pool]) -> Pool:
    """One pool of the classes of several, one after the other; token ids are padded with 0 to the longest text.

    Raises: `ValueError` where examples differ otherwise in shape or type.
    """
    if len(pools) == 1:
        return pools[0]
    inputs = [pool.inputs for pool in pools]
    if all(one.dtype == torch.int64 and one.ndim == 2 for one in inputs):
        longest = max(one.shape[1] for one in inputs)
        inputs = [functional.pad(one, (0, longest - one.shape[1])) for one in inputs]
    if len({(one.dtype, one.shape[1:]) for one in inputs}) > 1:
        shapes = [f"{str(one.dtype).removeprefix('torch.')} {list(one.shape[1:])}" for one in inputs]
        raise ValueError(f"examples of different kinds cannot be in one pool: {', '.join(shapes)}")
    before = torch.tensor([0, *(len(pool.names) for pool in pools)]).cumsum(0)
    labels = torch.cat([pool.labels + before[at] for at, pool in enumerate(pools)])
    return Pool(torch.cat(inputs), labels, tuple(name for pool in pools for name in pool.names))


def _mixed(word: int) -> int:
    """A one-to-one map of 32-bit words whose every output bit hangs on every input bit (MurmurHash3's last step)."""
    word ^= word >> 16
    word = word * 0x85EBCA6B % _WORD
    word ^= word >> 13
    word = word * 0xC2B2AE35 % _WORD
    return word ^ word >> 16


def _choose(counts: Int64[Tensor, " way"], images: int, generator: torch.Generator) -> Int64[Tensor, "way images"]:
    """`images` different numbers below each count, in random order: the first steps of a Fisher-Yates shuffle."""
    places = torch.arange(images)
    # 53 random bits: the share that a number is too likely is below 1e-10 for a class of a million.
    at = torch.rand(len(counts), images, dtype=torch.float64, generator=generator)
    swaps = places + (at * (counts[:, None] - places)).long()
    deck = torch.arange(int(counts.max())).repeat(len(counts), 1)
    rows = torch.arange(len(counts))
    for place in range(images):
        swap = swaps[:, place]
        taken = deck[rows, swap]
        deck[rows, swap] = deck[:, place]
        deck[:, place] = taken
    return deck[:, :images]
