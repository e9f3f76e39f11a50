"""The episodes of a step side by side on a CPU: threads that take whole episodes, each on one core."""

import copy
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import final

import torch
from torch import Tensor

from app.training.errors import BadRecipe
from app.training.objective import EpisodesObjective
from app.training.running import RunningStatistics


class DrawsAtRandom(BadRecipe):
    """A network with dropout or the like draws from torch's one generator, which threads cannot share."""

    def __init__(self) -> None:
        super().__init__("The recipe is wrong at 'accumulate': a network that draws at random cannot run in workers.")


@final
class Workers:
    """As many threads as torch has for one operation, each with one for itself.

    The operations on a support set are too small to be worth sharing out among cores, whole episodes are not. A
    worker has modules and running statistics of its own and shares the weights. It takes every n-th episode, and the
    gradients are summed in a fixed order: the same number of workers gives the same numbers, bit for bit.
    """

    def __init__(self, objective: EpisodesObjective) -> None:
        self.objective = objective
        self._weights = [one for one in objective.parameters() if one.requires_grad]
        shared = [*objective.parameters(), objective.pool, objective.ranks]
        count = torch.get_num_threads()
        self._twins = [copy.deepcopy(objective, {id(one): one for one in shared}) for _ in range(count)]
        self._threads = ThreadPoolExecutor(count, "episodes", torch.set_num_threads, (1,))

    def gradients(self, parts: Sequence[Sequence[int]], statistics: RunningStatistics) -> Tensor:
        """Add the gradients of a step's episodes to the weights' and return its loss.

        Raises: `DrawsAtRandom`; what an episode raises, but for those that diverge: they are left out and counted.
        """
        numbers = [one for part in parts for one in part]
        drawn_before = torch.get_rng_state()
        with _one_thread_each():
            waiting = [
                self._threads.submit(self._share, twin, numbers[place :: len(self._twins)], len(numbers))
                for place, twin in enumerate(self._twins[: len(numbers)])
            ]
            done = [one.result() for one in waiting]
        if not torch.equal(torch.get_rng_state(), drawn_before):
            torch.set_rng_state(drawn_before)
            raise DrawsAtRandom
        self.objective.diverged += sum(twin.diverged for twin in self._twins[: len(numbers)])
        for _, found, moved in done:
            statistics.join(moved)
            for weight, slope in zip(self._weights, found, strict=True):
                if slope is not None:
                    weight.grad = slope if weight.grad is None else weight.grad + slope
        return torch.stack([loss for loss, _, _ in done]).sum()

    def _share(
        self, twin: EpisodesObjective, numbers: Sequence[int], all_parts: int
    ) -> tuple[Tensor, list[Tensor | None], RunningStatistics]:
        """One worker's episodes: their loss, its slopes, and where the running statistics went."""
        with torch.no_grad():
            for its, ours in zip(twin.buffers(), self.objective.buffers(), strict=True):
                its.copy_(ours)
        twin.diverged = 0
        twin.learner.training_progress = self.objective.learner.training_progress
        statistics = RunningStatistics(twin, twin.ranks)
        statistics.begin(all_parts)
        losses: list[Tensor] = []
        sums: list[Tensor | None] = [None] * len(self._weights)
        for number in numbers:
            loss = twin.alone(number)
            slopes = torch.autograd.grad(loss, self._weights, allow_unused=True)
            sums = [_sum(one, other) for one, other in zip(sums, slopes, strict=True)]
            statistics.take(1)
            losses.append(loss.detach())
        return torch.stack(losses).sum(), sums, statistics


def can_work(objective: EpisodesObjective) -> bool:
    """Whether workers are a choice: on a CPU that one process has to itself, for more than one episode a step."""
    ranks = objective.ranks
    alone = ranks.world == 1 and ranks.device.type == "cpu"
    return alone and objective.per_step > 1 and torch.get_num_threads() > 1


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Matrix products go by one number of threads for the whole process, the other operations by their thread's own."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None or other is None:
        return other if one is None else one
    return one + other
