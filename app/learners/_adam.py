"""Adam on a dictionary of weights, for inner loops that no gradient flows through."""

from collections.abc import Mapping
from typing import Final, final

from torch import Tensor

from app.learners._inner_loop import Weights

_SQUARES: Final = 0.999
_SMALL: Final = 1e-8


@final
class Adam:
    """An `Update`: Kingma, Ba, ICLR 2015, arXiv:1412.6980, algorithm 1; with `decay`, Loshchilov, Hutter,
    arXiv:1711.05101, algorithm 2 (weights shrink by rate * decay a step).

    One object serves one inner loop, its steps in order. A weight without a slope has moved by nothing.
    """

    def __init__(self, rates: Mapping[str, Tensor], *, momentum: float = 0.9, decay: float = 0.0) -> None:
        self.rates = rates
        self.momentum = momentum
        self.decay = decay
        self.means: Weights = {}
        self.squares: Weights = {}

    def __call__(self, step: int, weights: Weights, slopes: Weights) -> Weights:
        """The weights after step number `step`, counted from 0."""
        return {**weights, **{name: self._moved(step, name, weights[name], one) for name, one in slopes.items()}}

    def _moved(self, step: int, name: str, weight: Tensor, slope: Tensor) -> Tensor:
        mean = self.means.get(name, slope.new_zeros(())) * self.momentum + (1 - self.momentum) * slope
        square = self.squares.get(name, slope.new_zeros(())) * _SQUARES + (1 - _SQUARES) * slope.square()
        self.means[name], self.squares[name] = mean, square
        size = (square / (1 - _SQUARES ** (step + 1))).sqrt() + _SMALL
        towards = mean / (1 - self.momentum ** (step + 1)) / size
        return weight - self.rates[name] * (towards + self.decay * weight)
