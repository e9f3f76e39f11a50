"""One step of the outer loop: the gradients of a step's parts, summed, and one update."""

import math
import statistics
import time
from contextlib import nullcontext
from typing import Final, final, get_args

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from app.learners._base import EmbeddingLearner
from app.training.ema import Average
from app.training.errors import BadRecipe
from app.training.objective import EpisodesObjective, Mode, Objective
from app.training.recipe import Optimiser
from app.training.running import RunningStatistics
from app.training.schedule import clip, new_optimiser, set_learning_rate
from app.training.workers import DrawsAtRandom, Workers, can_work

_ROUNDS: Final = 3
_HOPELESS: Final = 3.0
"""A mode whose first round takes so many times the best of the other is not tried again."""


@final
class OuterLoop:
    """Takes steps. It holds the optimiser and the average of the weights, and knows nothing of validation.

    Several ranks go through torch's own DistributedDataParallel: the gradients of a step are those of one process.
    `left_out` says how many episodes of the last step diverged, over all ranks; its loss and its gradients are means
    over the others, and zero where there are none.
    """

    def __init__(self, objective: Objective, plan: Optimiser) -> None:
        ranks = objective.ranks
        if objective.per_step < ranks.world:
            raise BadRecipe(f"A step of {objective.per_step} {objective.unit} cannot be shared by {ranks.world} ranks.")
        self.objective = objective
        self.plan = plan
        self.optimiser = new_optimiser(plan, objective.network_parameters(), objective.own_parameters())
        self.average = Average(objective, plan.ema_decay) if plan.ema_decay else None
        self._statistics = RunningStatistics(objective, ranks)
        self.left_out = 0
        self._workers: Workers | None = None
        self._module: nn.Module = objective
        if ranks.world > 1:
            # Running statistics are shared by ours; a learner may leave a parameter out of an episode.
            self._module = DistributedDataParallel(objective, broadcast_buffers=False, find_unused_parameters=True)

    def step(self, number: int) -> Tensor:
        """Take a step (from 0); returns this rank's part of its loss, not yet fetched from the device."""
        set_learning_rate(self.optimiser, self.plan, number)
        loss = self.gradients(number)
        clip(self.optimiser, self.plan.clip_norm)
        self.optimiser.step()
        if self.average is not None:
            self.average.update(self.objective)
        return loss

    def gradients(self, number: int) -> Tensor:
        """The loss of a step; its gradients are left in the parameters."""
        self.objective.set_progress(number / self.plan.steps)
        self.objective.diverged = 0
        self.optimiser.zero_grad()
        parts = self.objective.parts(number)
        losses = []
        self._statistics.begin(len(parts))
        if isinstance(self.objective, EpisodesObjective) and self.objective.mode == "workers":
            self._workers = self._workers or Workers(self.objective)
            losses.append(self._workers.gradients(parts, self._statistics))
            parts = []
        for place, part in enumerate(parts):
            waits = isinstance(self._module, DistributedDataParallel) and place < len(parts) - 1
            with self._module.no_sync() if waits else nullcontext():  # type: ignore[operator]
                loss: Tensor = self._module(part)
                loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
            self._statistics.take(len(part))
        self._statistics.finish()
        return self._mean_of_the_rest(torch.stack(losses).sum())

    def _mean_of_the_rest(self, loss: Tensor) -> Tensor:
        """Spread the weight of the episodes that diverged over the others; returns their loss."""
        if not self.objective.may_diverge:
            return loss
        self.left_out = self.objective.ranks.total(self.objective.diverged)
        if self.left_out in {0, self.objective.per_step}:
            return loss
        factor = self.objective.per_step / (self.objective.per_step - self.left_out)
        for one in self.objective.parameters():
            if one.grad is not None:
                one.grad *= factor
        return loss * factor


def fastest_mode(objective: EpisodesObjective) -> dict[Mode, float]:
    """Seconds that the gradients of the first step take on this device in each mode that the learner has.

    Nothing is changed: gradients are thrown away, running statistics put back, episodes drawn by their numbers.
    """
    able = {"loop": True, "workers": can_work(objective), "vmap": can_vmap(objective)}
    modes: list[Mode] = [one for one in get_args(Mode) if able[one]]
    before = {name: one.clone() for name, one in objective.named_buffers()}
    chosen = objective.mode
    found: dict[Mode, float] = {}
    for mode in modes:
        objective.mode = mode
        found[mode] = _seconds(objective, best=min(found.values(), default=math.inf))
    objective.mode = chosen
    for name, one in objective.named_buffers():
        one.copy_(before[name])
    return found


def can_vmap(objective: EpisodesObjective) -> bool:
    """Whether all tasks of a step can go at once and give what the loop gives.

    Not on embeddings made once; nor over a network whose batch statistics the loop takes from each whole episode.
    """
    if not objective.learner.vmaps or objective.frozen or objective.per_step == 1:
        return False
    norms = [one for one in objective.network.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    return not (norms and isinstance(objective.learner, EmbeddingLearner))


def _seconds(objective: EpisodesObjective, best: float) -> float:
    """The median of a few rounds, the first of which may set things up; infinity where memory does not suffice.

    The median, because the best case of cores that wait for each other comes rarely on a machine that does more.
    """
    found: list[float] = []
    workers = Workers(objective) if objective.mode == "workers" else None
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        try:
            if workers is not None:
                workers.gradients(objective.parts(0), RunningStatistics(objective, objective.ranks))
            else:
                for part in objective.parts(0):
                    objective(part).backward()
        except (torch.OutOfMemoryError, DrawsAtRandom):
            return math.inf
        finally:
            objective.zero_grad()
        if objective.ranks.device.type == "cuda":
            torch.cuda.synchronize(objective.ranks.device)
        found.append(time.perf_counter() - started)
        if min(found) > _HOPELESS * best:
            break
    return statistics.median(found)
