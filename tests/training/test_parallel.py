"""Two processes train as one would."""

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
from app.training.recipe import Named, read_recipe
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
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from app.training.build import Blueprint
from app.training.outer import OuterLoop
from app.training.parallel import connected
from app.training.recipe import Named, read_recipe
from app.training.sampler import Pool
from app.training.train_command import Options, main

folder = Path(sys.argv[1])
with connected("cpu") as ranks:
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
    options = Options(str(folder / "tiny.toml"), folder / "data", folder / "two", device="cpu", threads=1)
    assert main(options) == 0
"""


@pytest.fixture
def folder(tmp_path: Path, alphabet: Callable[[int, int], Pool]) -> Path:
    pool = alphabet(20, 0)
    (tmp_path / "data" / "arrays").mkdir(parents=True)
    labels = np.array([f"letter {name:02d}" for name in pool.labels.tolist()])
    np.savez(tmp_path / "data" / "arrays" / "letters.npz", inputs=pool.inputs[:, 0].numpy(), labels=labels)
    (tmp_path / "tiny.toml").write_text(RECIPE)
    (tmp_path / "script.py").write_text(SCRIPT)
    return tmp_path


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
