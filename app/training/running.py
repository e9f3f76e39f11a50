"""The running statistics of batch normalisation, when several parts of a step move them."""

from typing import final

import torch
from torch import Tensor, nn

from app.training.parallel import Ranks


@final
class RunningStatistics:
    """Keeps them independent of how a step's episodes are ordered and shared out among ranks.

    Each part of a step moves them from where they stood when the step began; the step ends at the mean of what the
    parts found, each weighed by its episodes. A step of one part on one rank is left to torch.
    """

    def __init__(self, module: nn.Module, ranks: Ranks) -> None:
        layers = [one for one in module.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
        self._tracked = [one for layer in layers for one in (layer.running_mean, layer.running_var) if one is not None]
        self._counts = [layer.num_batches_tracked for layer in layers if layer.num_batches_tracked is not None]
        self._ranks = ranks
        self._active = False
        self._before: list[Tensor] = []
        self._moved = torch.zeros(0)

    def begin(self, parts: int) -> None:
        """A step of so many parts on this rank begins."""
        self._active = bool(self._tracked) and (parts > 1 or self._ranks.world > 1)
        if self._active:
            self._before = [one.clone() for one in (*self._tracked, *self._counts)]
            # How far each number moved, times the episodes, and behind them the number of episodes.
            self._moved = self._tracked[0].new_zeros(sum(one.numel() for one in self._tracked) + 1)

    @torch.no_grad()
    def take(self, episodes: int) -> None:
        """A part is done: note where it moved the statistics, and put them back for the next."""
        if not self._active:
            return
        moves = [(one - start).flatten() for one, start in zip(self._tracked, self._before, strict=False)]
        self._moved.add_(torch.cat([*moves, self._moved.new_ones(1)]), alpha=episodes)
        for one, start in zip(self._tracked, self._before, strict=False):
            one.copy_(start)

    @torch.no_grad()
    def join(self, other: "RunningStatistics") -> None:
        """Count in the parts that another one of the same step took, on statistics of its own."""
        if self._active:
            self._moved.add_(other._moved)
            for count, its in zip(self._counts, other._counts, strict=True):
                count.copy_(torch.maximum(count, its))

    @torch.no_grad()
    def finish(self) -> None:
        """The step is done."""
        if not self._active:
            return
        moved = self._ranks.sum_(self._moved)
        means = torch.split(moved[:-1] / moved[-1], [one.numel() for one in self._tracked])
        for one, mean in zip(self._tracked, means, strict=True):
            one.add_(mean.view_as(one))
        for count, start in zip(self._counts, self._before[len(self._tracked) :], strict=True):
            count.copy_(torch.minimum(count, start + 1))
