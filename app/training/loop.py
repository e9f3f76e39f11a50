"""The training loop: episodes through the learner's own loss, the best weights by validation kept."""

import math
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from app import backbones, learners
from app.backbones._base import Backbone
from app.backbones.identity import Identity
from app.backbones.identity import Settings as IdentitySettings
from app.learners._base import EmbeddingLearner
from app.training.augment import augment
from app.training.evaluate import Accuracy, embed_pool, evaluate
from app.training.recipe import BadRecipe, Named, Optimiser, Recipe
from app.training.sampler import Pool, draw, to_episode


@dataclass(frozen=True)
class Progress:
    """Where a run stands: mean loss since the last validation, and the validation accuracy."""

    step: int
    steps: int
    loss: float
    validation: Accuracy
    elapsed_s: float


@dataclass(frozen=True, eq=False)
class Trained:
    """The best weights of a run, in evaluation mode, and how they came about."""

    backbone: Backbone
    best: Progress
    wall_clock_s: float


def head_of(learner: Named) -> EmbeddingLearner[Any]:
    """The recipe's learner over features. Raises: `BadRecipe` for one that needs the network itself."""
    head = learners.build(learner.name, Identity(IdentitySettings()), learner.settings)
    if not isinstance(head, EmbeddingLearner):
        raise BadRecipe(f"The learner {learner.name!r} cannot be trained by this loop: it adapts the network itself.")
    return head


def new_backbone(recipe: Recipe) -> Backbone:
    """The untrained backbone, its weights drawn from the recipe's seed; the global generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return backbones.build(recipe.backbone.name, recipe.backbone.settings)


def train(recipe: Recipe, training: Pool, validation: Pool, report: Callable[[Progress], None]) -> Trained:
    """Train as the recipe says; `report` hears of every validation.

    Raises: `BadRecipe` for a learner this loop cannot train; `ValueError` for pools too small for the episodes.
    """
    start_s = time.monotonic()
    backbone, head = new_backbone(recipe).train(), head_of(recipe.learner).train()
    optimiser = torch.optim.Adam([*backbone.parameters(), *head.parameters()], recipe.optimiser.learning_rate)
    generator = torch.Generator().manual_seed(recipe.seed)
    best: tuple[Progress, dict[str, Any]] | None = None
    losses: list[float] = []
    for step in range(recipe.optimiser.steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(recipe.optimiser, step)
        loss = step_loss(recipe, backbone, head, training, generator)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(loss.item())
        done = step + 1
        if done % recipe.validation.every_steps == 0 or done == recipe.optimiser.steps:
            judged = evaluate(head, embed_pool(backbone, validation), recipe.validation.judging)
            mean_loss, elapsed_s = sum(losses) / len(losses), time.monotonic() - start_s
            progress = Progress(done, recipe.optimiser.steps, mean_loss, judged, elapsed_s)
            report(progress)
            losses.clear()
            if best is None or judged.mean >= best[0].validation.mean:
                best = progress, deepcopy(backbone.state_dict())
    assert best is not None  # noqa: S101 (a recipe has at least one step, and the last is judged)
    backbone.load_state_dict(best[1])
    return Trained(backbone.eval(), best[0], time.monotonic() - start_s)


def step_loss(
    recipe: Recipe, backbone: Backbone, head: EmbeddingLearner[Any], pool: Pool, generator: torch.Generator
) -> Float[Tensor, ""]:
    """Mean of the learner's `episode_loss` over several splits of one set of examples.

    The backbone embeds the examples once: batch normalisation sees the support and the queries
    together, and each further split costs next to nothing.
    """
    plan = recipe.episodes
    drawn = pool.inputs[draw(pool, plan.way, plan.images, generator)]
    inputs = augment(drawn, recipe.augmentation, generator)
    features = backbone(inputs.flatten(0, 1)).reshape(plan.way, plan.images, -1)
    losses = [head.episode_loss(to_episode(features, plan.shot, turn)) for turn in range(plan.splits)]
    return torch.stack(losses).mean()


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
