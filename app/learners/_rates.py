"""Settings, learned rates and the descent that MAML and Proto-MAML share."""

from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, final

import torch
from torch import Tensor, nn

from app.backbones._base import Backbone
from app.learners._inner_loop import BACKBONE, BIAS, WEIGHT, Update, at_rates, step_shares
from app.learners._weights import WeightLearner, WeightSettings

HEAD = (WEIGHT, BIAS)

M = TypeVar("M", bound="SecondOrderSettings")


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


class SecondOrderLearner(WeightLearner[M], ABC):
    """Descends at a rate for the backbone's weights and one for the head's, and is trained through the descent.

    Both rates are meta-trained: what inherits from it names them in `learnable`.
    """

    def __init__(self, backbone: Backbone, settings: M) -> None:
        super().__init__(backbone, settings)
        self.rates = StepRates([*self.weights(), *HEAD], settings.training_steps) if settings.learned_rates else None

    @property
    def second_order(self) -> bool:
        """Neither first order for good, nor still."""
        return not self.settings.first_order and self.training_progress >= self.settings.first_order_until

    def query_shares(self, steps: int) -> Sequence[float]:
        """The last step counts; in the beginning the others too, with `multi_step_until`."""
        return step_shares(steps, self.settings.multi_step_until, self.training_progress)

    def descent(self, like: Tensor) -> Update:
        """The steps, at rates in the type of `like`."""
        rate, head_rate = (self.value(name).to(like) for name in ("learning_rate", "head_learning_rate"))
        rates = rates_at([*self.weights(), *HEAD], rate, head_rate)
        factors = self.rates
        return at_rates(lambda step: rates if factors is None else scaled(rates, factors(step)))


def rates_at(names: Sequence[str], backbone: Tensor, head: Tensor) -> dict[str, Tensor]:
    """The rate of each weight: one for the backbone's, one for the head's."""
    return {name: backbone if name.startswith(BACKBONE) else head for name in names}


def scaled(rates: Mapping[str, Tensor], factors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each rate times its factor."""
    return {name: one * factors[name].to(one) for name, one in rates.items()}
