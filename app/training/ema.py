"""A running average of the weights while they are trained."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from app.training.objective import Objective


class Average:
    """The exponential moving average of an objective's weights and running statistics.

    `decay` is the share of the old average that a step keeps; early steps keep less, (1 + n) / (10 + n) after n, so
    that the random start is soon forgotten. Whole numbers are taken over as they are.
    """

    def __init__(self, objective: Objective, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.weights = {name: one.detach().clone() for name, one in objective.weights().items()}

    @torch.no_grad()
    def update(self, objective: Objective) -> None:
        """Take in the weights after a step."""
        self.steps += 1
        share = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, now in objective.weights().items():
            if now.is_floating_point():
                self.weights[name].lerp_(now, share)
            else:
                self.weights[name].copy_(now)

    def load(self, weights: Mapping[str, Tensor], steps: int) -> None:
        """Go on from a stored average."""
        self.steps = steps
        for name, one in self.weights.items():
            one.copy_(weights[name])


@contextmanager
def averaged(objective: Objective, average: Average | None) -> Iterator[None]:
    """Let the objective have its average weights for a while; without an average it keeps its own."""
    if average is None:
        yield
        return
    own = {name: one.detach().clone() for name, one in objective.weights().items()}
    objective.load(average.weights)
    try:
        yield
    finally:
        objective.load(own)
