"""Vectors that the caller embedded: passed on as they are."""

from dataclasses import dataclass
from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor

from app.backbones._base import Backbone, Modality


@dataclass(frozen=True)
class Settings:
    """Nothing to set: the size of the vectors is each task's own."""


@final
class Identity(Backbone):
    """Bring your own embedding.

    Input and output: float (n, dim) of any dim; vectors of different sizes never share a batch.
    """

    modality: ClassVar[Modality] = "vector"
    dim = None

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        del settings
        self.input_shape = (None,)

    def forward(self, inputs: Float[Tensor, "n dim"]) -> Float[Tensor, "n dim"]:
        """Return the vectors."""
        return inputs

    def micro_batch_examples(self, device_type: str) -> int:
        """There is no network to fill memory with."""
        del device_type
        return 16_384
