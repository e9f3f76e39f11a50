"""A whole run: its stages, one after the other, from the state that it finds or from the start."""

from dataclasses import dataclass
from typing import Any

from app.learners._base import Learner
from app.training import datasets
from app.training.build import Blueprint
from app.training.embedding import device_of, embed_pool, placed
from app.training.loop import Run, StageLoop
from app.training.progress import Progress
from app.training.recipe import Recipe
from app.training.resume import RunState, Weights, digest_of, load_state, save_state
from app.training.sampler import Pool


@dataclass(frozen=True, eq=False)
class Trained:
    """What a run made: the recipe's learner over its network, in evaluation mode, and how it came about.

    `finished` is false where `so_far` took the best weights of a run that was not done.
    """

    learner: Learner[Any]
    best: Progress
    history: list[Progress]
    losses: list[float]
    wall_clock_s: float
    device: str
    finished: bool = True


@dataclass(frozen=True, eq=False)
class Pools:
    """The classes that train and those that validate."""

    training: Pool
    validation: Pool


def train(blueprint: Blueprint, pools: Pools, run: Run, state: RunState | None = None) -> Trained:
    """Train as the recipe says, on from `state` where there is one.

    Raises: `Stopped`, with the state saved; `BadRecipe`, `BadData`; `Diverged`.
    """
    recipe = blueprint.recipe
    check_sizes(recipe, pools)
    state = state or RunState(digest_of(recipe, pools.training, pools.validation))
    if state.stage < len(recipe.stages):
        pools = _placed(blueprint, pools, run)
    while state.stage < len(recipe.stages):
        objective = blueprint.objective(state.stage, pools.training, state.previous, run.ranks)
        judged_by = blueprint.judge(objective)
        loop = StageLoop(objective, judged_by, (recipe.validation, pools.validation), state, run)
        kept = loop.train()
        loop.snapshot()
        state.next_stage(kept)
        if run.ranks.leads and run.folder is not None:
            save_state(run.folder, state)
    return _trained(blueprint, state, state.previous, run)


def stored_state(blueprint: Blueprint, pools: Pools, run: Run) -> RunState | None:
    """The state that an earlier start of the same run left in its folder. Raises: `OtherRun`."""
    if run.folder is None:
        return None
    digest = digest_of(blueprint.recipe, pools.training, pools.validation)
    return load_state(run.folder, digest)


def so_far(blueprint: Blueprint, state: RunState, run: Run) -> Trained | None:
    """The best weights of a run that is not done; None where it has not been validated yet."""
    if not state.history:
        return None
    return _trained(blueprint, state, state.best or state.previous, run)


def check_sizes(recipe: Recipe, pools: Pools) -> None:
    """Refuse pools that are too small for the recipe's episodes. Raises: `BadData`."""
    for stage in recipe.stages:
        if stage.episodes is not None:
            datasets.require(pools.training, stage.episodes.way, stage.episodes.each, recipe.data.title("train"))
    judging = recipe.validation.judging
    datasets.require(pools.validation, judging.way, judging.shot + judging.queries, recipe.data.title("validation"))


def _placed(blueprint: Blueprint, pools: Pools, run: Run) -> Pools:
    """The pools on the device, where they fit; embedded, where the network is frozen."""
    if not blueprint.recipe.freeze_backbone:
        return Pools(placed(pools.training, run.ranks.device), placed(pools.validation, run.ranks.device))
    backbone = blueprint.backbone().to(run.ranks.device)
    count = len(pools.training.labels) + len(pools.validation.labels)
    run.report.say(f"embedding {count:,} examples once, on {device_of(backbone, pools.training.inputs).type}")
    return Pools(embed_pool(backbone, pools.training), embed_pool(backbone, pools.validation))


def _trained(blueprint: Blueprint, state: RunState, weights: Weights, run: Run) -> Trained:
    learner = blueprint.learner(blueprint.backbone(), weights).to(run.ranks.device).eval()
    finished = state.stage == len(blueprint.recipe.stages)
    number = state.history[-1].stage
    rows = [one for one in state.history if one.stage == number]
    last = blueprint.recipe.stages[number].keep == "last" and finished
    best = rows[-1] if last else max(rows, key=lambda one: (one.validation.mean, one.step))
    return Trained(learner, best, state.history, state.losses, state.elapsed_s, run.ranks.words, finished)
