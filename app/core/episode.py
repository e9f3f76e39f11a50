"""The types of few-shot learning that every layer shares."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from app.core.errors import EmptyClass, TooFewLabels

TaskState: TypeAlias = Mapping[str, Tensor]
"""What adaptation leaves behind: flat, so that safetensors stores it for every learner."""


@dataclass(frozen=True, eq=False)
class Support:
    """The labelled examples a classifier is made from.

    `inputs` are in the backbone's input form, one row an example; `labels` are class indices in
    `[0, way)`. Every class has at least one example.

    Raises: `TooFewLabels` for a way under 2, `EmptyClass` for a class without examples,
    `ValueError` for labels out of range or of another length than the inputs.
    """

    inputs: Shaped[Tensor, "s ..."]
    labels: Int64[Tensor, " s"]
    way: int

    def __post_init__(self) -> None:
        if self.way < 2:
            raise TooFewLabels(way=self.way)
        if self.labels.shape != self.inputs.shape[:1]:
            raise ValueError(f"{len(self.labels)} labels for {len(self.inputs)} inputs")
        if len(self.labels) and (int(self.labels.min()) < 0 or int(self.labels.max()) >= self.way):
            raise ValueError(f"labels must lie in [0, {self.way})")
        shots = self.shots
        if bool((shots == 0).any()):
            raise EmptyClass(label=str(int(torch.argmin(shots))))

    @property
    def shots(self) -> Int64[Tensor, " way"]:
        """How many examples each class has."""
        return self.labels.bincount(minlength=self.way)


@dataclass(frozen=True, eq=False)
class Episode:
    """A support set and the queries that judge what was adapted from it."""

    support: Support
    query_inputs: Shaped[Tensor, "q ..."]
    query_labels: Int64[Tensor, " q"]


Features: TypeAlias = Float[Tensor, "n dim"]
"""Embeddings, one row an example, in the backbone's units."""
