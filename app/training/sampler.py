"""Episodes drawn at random, through a passed generator."""

from dataclasses import dataclass

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from app.core.episode import Episode, Support


@dataclass(frozen=True, eq=False)
class Pool:
    """The classes of one split, with the same number of examples each."""

    inputs: Shaped[Tensor, "classes each ..."]


def draw(
    pool: Pool, way: int, images: int, generator: torch.Generator
) -> tuple[Int64[Tensor, "way 1"], Int64[Tensor, "way images"]]:
    """Choose `way` classes, and `images` different examples of each: `pool.inputs[classes, examples]` are they.

    Raises: `ValueError` where the pool has too few of either.
    """
    classes, each = pool.inputs.shape[:2]
    if way > classes or images > each:
        raise ValueError(f"{way} classes of {images} are wanted; the pool has {classes} of {each}")
    chosen = torch.randperm(classes, generator=generator)[:way, None]
    return chosen, torch.rand(way, each, generator=generator).argsort(1)[:, :images]


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
