"""Settings and learned rates that MAML and Proto-MAML share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor, nn

from app.learners._inner_loop import BACKBONE, BIAS, WEIGHT
from app.learners._weights import WeightSettings

HEAD = (WEIGHT, BIAS)


@dataclass(frozen=True)
class SecondOrderSettings(WeightSettings):
    """What the settings of a learner hold whose meta-gradient goes through the inner loop."""

    first_order: bool = field(
        default=False, metadata={"description": "Meta-train past the inner gradients instead of through them (FOMAML)."}
    )
    first_order_until: float = field(
        default=0.0,
        metadata={"description": "Share of the meta-training that is first order, first.", "minimum": 0, "maximum": 1},
    )
    multi_step_until: float = field(
        default=0.0,
        metadata={
            "description": "Share of the meta-training in which the queries count after every inner step, fading out.",
            "minimum": 0,
            "maximum": 1,
        },
    )
    learned_rates: bool = field(
        default=False, metadata={"description": "Meta-train a rate for each layer's weights at each step (LSLR)."}
    )


@final
class StepRates(nn.Module):
    """A meta-trained factor on the rate of each of the `names` at each of the trained steps; 1 before training.

    Later steps take the factors of the last one. Antoniou, Edwards, Storkey, ICLR 2019, arXiv:1810.09502 (LSLR);
    there the rates themselves are learned, here the logarithm of a factor, so that none turns negative.
    """

    def __init__(self, names: Sequence[str], steps: int) -> None:
        super().__init__()
        self.names = tuple(names)
        self.logs = nn.Parameter(torch.zeros(steps, len(self.names)))

    def forward(self, step: int) -> dict[str, Tensor]:
        """The factors at a step (from 0), each a tensor of one number."""
        return dict(zip(self.names, self.logs[min(step, len(self.logs) - 1)].exp().unbind(), strict=True))


def rates_at(names: Sequence[str], backbone: Tensor, head: Tensor) -> dict[str, Tensor]:
    """The rate of each weight: one for the backbone's, one for the head's."""
    return {name: backbone if name.startswith(BACKBONE) else head for name in names}


def scaled(rates: Mapping[str, Tensor], factors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each rate times its factor."""
    return {name: one * factors[name].to(one) for name, one in rates.items()}
