"""Our own contender of `benchmarks.meta_training`: the product's objective and its outer loop."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from app import backbones, learners
from app.learners._base import Learner
from app.training.objective import EpisodesObjective
from app.training.outer import OuterLoop, fastest_mode
from app.training.parallel import Ranks
from app.training.recipe import Episodes, Optimiser, Stage
from app.training.sampler import Pool, draw, episode_generator, to_episode
from benchmarks.contender import LEARNING_RATE, POOL_FILE, TASKS_FILE, WEIGHTS_FILE, Work
from benchmarks.meta_contenders import Model, Task

POOL_CLASSES: Final = 64
POOL_EACH: Final = 20


@final
class Ours:
    """The training loop's step, accumulating as `auto` chooses; it draws its episodes anew each time."""

    def __init__(self, work: Work, folder: Path, kind: torch.dtype = torch.float32) -> None:
        device = torch.device(work.device)
        pool = Pool.of_classes(load_file(folder / POOL_FILE)["inputs"].to(device))
        learner = learner_of(work, load_file(folder / WEIGHTS_FILE)).to(device)
        if kind == torch.float64:
            learner.double()
        stage = Stage(
            kind="episodes",
            optimiser=Optimiser(cycles=(1_000_000,), learning_rate=LEARNING_RATE),
            episodes=Episodes(work.way, work.shot, work.queries, meta_batch=work.meta_batch),
        )
        self.objective = EpisodesObjective(learner, pool, stage, work.seed, Ranks(device=device)).train()
        self._outer = OuterLoop(self.objective, stage.optimiser)

    def prepare(self) -> str:
        """Choose how a step's gradients are summed, as the training loop does; says what each way took."""
        took = fastest_mode(self.objective)
        self.objective.mode = min(took, key=lambda mode: took[mode])
        tried = ", ".join(f"{mode} {1000 * seconds:.0f} ms" for mode, seconds in took.items())
        return f"{self.objective.mode} ({tried} a step)" if len(took) > 1 else self.objective.mode

    def gradients(self) -> Mapping[str, Tensor]:
        """The meta-gradient, as far as a peer has it: not that of our learned rates."""
        self._outer.gradients(0)
        named = self.objective.learner.named_parameters()
        found = {name.removeprefix("backbone."): one.grad for name, one in named if one.grad is not None}
        return {name: one for name, one in found.items() if name.startswith(("blocks.", "head."))}

    def step(self) -> None:
        """One step."""
        self._outer.step(0)


def learner_of(work: Work, weights: Mapping[str, Tensor]) -> Learner[Any]:
    """The learner over a conv4 with these weights, which are those of the peers' `Model`.

    MAML and ANIL start from a head that is meta-trained, one row a class, as in the papers.
    """
    shape = {"norm": work.norm, "filters": work.filters, "image_size": work.side}
    backbone = backbones.build("conv4", shape)
    backbone.load_state_dict({name: one for name, one in weights.items() if name.startswith("blocks.")})
    settings: dict[str, object] = {}
    if work.learner != "protonet":
        settings = {"head": "fixed", "head_way": work.way, "training_steps": work.steps, "learning_rate": work.rate}
    if work.learner == "maml":
        settings["head_learning_rate"] = work.rate
    built = learners.build(work.learner, backbone, settings)
    if settings:
        built.load_own_state({name: one for name, one in weights.items() if name.startswith("head.")})
    return built


def lay_out(work: Work, folder: Path) -> None:
    """Write everything that contenders start from: one model, one pool of images, the episodes that ours will draw."""
    work.write(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(work.seed)
        model = Model(work.way, work.norm, work.filters, work.side)
    generator = torch.Generator().manual_seed(work.seed)
    shape = (POOL_CLASSES, POOL_EACH, 1, work.side, work.side)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    pool = Pool.of_classes(images)
    tasks = [_task(pool, work, number) for number in range(work.meta_batch)]
    save_file(model.state_dict(), folder / WEIGHTS_FILE)
    save_file({"inputs": images}, folder / POOL_FILE)
    stacked = {field: torch.stack(parts) for field, *parts in zip(Task._fields, *tasks, strict=True)}
    save_file(stacked, folder / TASKS_FILE)


def _task(pool: Pool, work: Work, number: int) -> Task:
    rows = draw(pool, work.way, work.shot + work.queries, episode_generator(work.seed, number))
    episode = to_episode(pool.take(rows), work.shot)
    support = episode.support
    return Task(support.inputs, support.labels, episode.query_inputs, episode.query_labels)
