"""Two processes train as one would, also where some of a step's episodes diverge."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from app.training.build import Blueprint
from app.training.errors import BadRecipe
from app.training.outer import OuterLoop
from app.training.parallel import ALONE, Ranks, connected
from app.training.recipe import Augmentation, Named, read_recipe
from app.training.sampler import Pool
from app.training.train_command import Options, main

RECIPE = """
name = "tiny"
[data]
name = "arrays"
settings = { val_share = 0.3, test_share = 0.3 }
[backbone]
name = "conv4"
settings = { filters = 8 }
[learner]
name = "anil"
settings = { learned_rates = true, training_steps = 3 }
[[stages]]
kind = "episodes"
episodes = { way = 4, images = 3, meta_batch = 3 }
augmentation = { shift_pixels = 2.0 }
optimiser = { cycles = [6], learning_rate = 0.01, kind = "sgd" }
[validation]
every_steps = 3
judging = { way = 4, shot = 1, episodes = 11, queries = 3 }
[[tests]]
way = 4
shot = 1
episodes = 11
queries = 3
[card]
preprocessing = { height = 28, width = 28, channels = 1, resize = "stretch" }
"""

SCRIPT = """
import sys
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import distributed

from app.training.build import Blueprint
from app.training.outer import OuterLoop
from app.training.parallel import connected
from app.training.recipe import Augmentation, Named, read_recipe
from app.training.sampler import Pool
from app.training.train_command import Options, main

folder = Path(sys.argv[1])


def check(ranks):
    assert ranks.world == 2
    assert ranks.any(ranks.rank == 1, False) == (True, False)
    assert ranks.leaders(f"rank {ranks.rank}") == "rank 0"
    recipe = read_recipe(folder / "tiny.toml")
    inputs = torch.from_numpy(np.load(folder / "data/arrays/letters.npz")["inputs"]).reshape(20, 6, 1, 28, 28)
    for learner in (recipe.learner, Named("maml", {"training_steps": 2, "learned_rates": True})):
        objective = Blueprint(replace(recipe, learner=learner)).objective(0, Pool.of_classes(inputs), {}, ranks)
        OuterLoop(objective, recipe.stages[0].optimiser).gradients(1)
        found = {name: one.grad for name, one in objective.named_parameters() if one.grad is not None}
        found |= dict(objective.named_buffers())
        found = {name: one.contiguous() for name, one in found.items()}
        save_file(found, folder / f"{learner.name}-{ranks.rank}.safetensors")
    pool = Pool.of_classes(torch.from_numpy(np.load(folder / "vectors.npy")))
    stage = replace(recipe.stages[0], augmentation=Augmentation())
    for mode in ("loop", "vmap"):
        learner, backbone = Named("maml", {"training_steps": 2, "learned_rates": True}), Named("identity", {})
        plan = replace(recipe, learner=learner, backbone=backbone, stages=(stage,))
        objective = Blueprint(plan).objective(0, pool, {}, ranks).double()
        objective.mode = mode
        outer, found = OuterLoop(objective, stage.optimiser), {}
        for step in range(8):
            found[f"{step}.loss"] = ranks.sum_(outer.gradients(step).double()) / 2
            grads = {name: one.grad for name, one in objective.named_parameters() if one.grad is not None}
            found |= {f"{step}.{name}": one.clone() for name, one in grads.items()}
            found[f"{step}.left_out"], found[f"{step}.here"] = map(torch.tensor, (outer.left_out, objective.diverged))
        save_file(found, folder / f"diverged-{mode}-{ranks.rank}.safetensors")
    options = Options(str(folder / "tiny.toml"), folder / "data", folder / "two", device="cpu", threads=1)
    assert main(options) == 0


with connected("cpu") as ranks:
    group = weakref.ref(distributed.group.WORLD)
    check(ranks)
assert group() is None, "the group's threads outlive it, and may abort the process at its end"
"""


@pytest.fixture
def folder(on_disk: Callable[[str], Path]) -> Path:
    written = on_disk(RECIPE)
    (written / "script.py").write_text(SCRIPT)
    vectors = np.random.default_rng(0).normal(size=(8, 6, 5))
    vectors[6:, :, 0] = np.nan  # episodes with these classes diverge
    np.save(written / "vectors.npy", vectors)
    return written


@pytest.fixture
def two_ranks(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The script, on two processes."""
    command = ["torch.distributed.run", "--nproc-per-node", "2", "--standalone", str(folder / "script.py"), str(folder)]
    with subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        yield run
        run.terminate()


@pytest.mark.usefixtures("undrawn")
def test_two_processes_find_the_gradients_statistics_losses_and_scores_of_one(
    folder: Path, two_ranks: subprocess.Popen[bytes], alphabet: Callable[[int, int], Pool]
) -> None:
    """Three episodes a step: one process takes two of them, the other one."""
    recipe = read_recipe(folder / "tiny.toml")
    assert main(Options(str(folder / "tiny.toml"), folder / "data", folder / "one", device="cpu", threads=1)) == 0
    said, errors = two_ranks.communicate(timeout=300)
    assert two_ranks.returncode == 0, errors.decode()
    for learner in (recipe.learner, Named("maml", {"training_steps": 2, "learned_rates": True})):
        objective = Blueprint(replace(recipe, learner=learner)).objective(0, alphabet(20, 0), {}, ALONE)
        OuterLoop(objective, recipe.stages[0].optimiser).gradients(1)
        expected = {name: one.grad for name, one in objective.named_parameters() if one.grad is not None}
        expected |= dict(objective.named_buffers())
        for rank in (0, 1):
            found = load_file(folder / f"{learner.name}-{rank}.safetensors")
            assert set(found) == set(expected)
            for name, one in expected.items():
                torch.testing.assert_close(found[name], one, rtol=1e-3, atol=1e-6)
    states = [load_file(folder / which / "tiny" / "run" / "state.safetensors") for which in ("one", "two")]
    torch.testing.assert_close(states[1]["losses"], states[0]["losses"], rtol=1e-4, atol=1e-5)
    assert said.decode().count("wrote ") == 1
    tables = [(folder / which / "tiny" / "run" / "scores.md").read_text() for which in ("one", "two")]
    assert tables[0] == tables[1]
    for mode in ("loop", "vmap"):
        _check_left_out(folder, mode)


def _check_left_out(folder: Path, mode: str) -> None:
    """Both ranks count the episodes that diverged anywhere, and have the gradients that one process has."""
    recipe = read_recipe(folder / "tiny.toml")
    stage = replace(recipe.stages[0], augmentation=Augmentation())
    learner, backbone = Named("maml", {"training_steps": 2, "learned_rates": True}), Named("identity", {})
    pool = Pool.of_classes(torch.from_numpy(np.load(folder / "vectors.npy")))
    plan = replace(recipe, learner=learner, backbone=backbone, stages=(stage,))
    outer = OuterLoop(Blueprint(plan).objective(0, pool, {}, ALONE).double(), stage.optimiser)
    ranks = [load_file(folder / f"diverged-{mode}-{rank}.safetensors") for rank in (0, 1)]
    seen = set()
    for step in range(8):
        expected = {"loss": outer.gradients(step).double(), "left_out": torch.tensor(outer.left_out)}
        expected |= {name: one.grad for name, one in outer.objective.named_parameters() if one.grad is not None}
        for found in ranks:
            for name, one in expected.items():
                torch.testing.assert_close(found[f"{step}.{name}"], one, msg=f"{mode} {step} {name}")
        seen.add(tuple(int(found[f"{step}.here"]) for found in ranks))
    assert {(1, 1), (0, 1)} & seen  # a rank with nothing left beside one that goes on
    assert len(seen) > 2


def test_alone_a_process_does_everything_itself() -> None:
    with connected("cpu") as ranks:
        assert (ranks.rank, ranks.world, ranks.leads) == (0, 1, True)
        assert ranks.share(range(3)) == [0, 1, 2]
        assert ranks.any(True, False) == (True, False)
        assert ranks.sum_(torch.tensor(2.0)).item() == 2.0
        assert ranks.words.startswith("cpu (")


def test_every_number_falls_to_one_rank() -> None:
    shares = [Ranks(rank, 3).share(range(10)) for rank in range(3)]
    assert sorted(one for share in shares for one in share) == list(range(10))


@pytest.mark.parametrize("device", ["cuda:99", "mps"])
def test_a_device_that_is_not_there_is_refused_by_name(device: str) -> None:
    with pytest.raises(BadRecipe, match=device), connected(device):
        pass
