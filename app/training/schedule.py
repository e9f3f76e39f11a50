"""The optimiser of a stage and its learning rate at each step."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from app.training.errors import BadRecipe
from app.training.recipe import Optimiser


def learning_rate(plan: Optimiser, step: int) -> float:
    """The learning rate of a step (from 0)."""
    peak, place = plan.learning_rate, step
    for length in plan.cycles:
        if place < length:
            break
        peak, place = peak * plan.cycle_decay, place - length
    warm = min(1.0, (place + 1) / plan.warmup_steps) if plan.warmup_steps else 1.0
    cosine = (1 + math.cos(math.pi * place / length)) / 2
    return peak * warm * max(cosine, plan.final_share)


def new_optimiser(
    plan: Optimiser, network: Iterable[nn.Parameter], own: Iterable[nn.Parameter]
) -> torch.optim.Optimizer:
    """The optimiser of the network's weights, and of what is the learner's own, which weight decay spares.

    What needs no gradient is left out. Raises: `BadRecipe` where nothing is left to train.
    """
    wanted = [
        {"params": _trained(network), "weight_decay": plan.weight_decay, "factor": 1.0},
        {"params": _trained(own), "weight_decay": 0.0, "factor": plan.learner_factor},
    ]
    groups = [group for group in wanted if group["params"]]
    if not groups:
        raise BadRecipe("There is nothing to train: the backbone is frozen, and the learner has nothing to learn.")
    if plan.kind == "sgd":
        nesterov = plan.nesterov and plan.momentum > 0
        return torch.optim.SGD(groups, plan.learning_rate, momentum=plan.momentum, nesterov=nesterov)
    kind = torch.optim.Adam if plan.kind == "adam" else torch.optim.AdamW
    return kind(groups, plan.learning_rate)


def set_learning_rate(optimiser: torch.optim.Optimizer, plan: Optimiser, step: int) -> None:
    """Give every group of parameters its learning rate for a step (from 0)."""
    rate = learning_rate(plan, step)
    for group in optimiser.param_groups:
        group["lr"] = rate * group["factor"]


def clip(optimiser: torch.optim.Optimizer, norm: float | None) -> None:
    """Shorten the gradient to `norm` where it is longer; None leaves it."""
    if norm is not None:
        everything = [one for group in optimiser.param_groups for one in group["params"]]
        torch.nn.utils.clip_grad_norm_(everything, norm)


def _trained(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    return [one for one in parameters if one.requires_grad]
