"""Episodes on threads: the numbers of the loop, whoever takes which."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from app.training.build import Blueprint
from app.training.loop import Run
from app.training.objective import EpisodesObjective
from app.training.outer import OuterLoop, fastest_mode
from app.training.parallel import Ranks
from app.training.recipe import Episodes, Named, Recipe
from app.training.sampler import Pool
from app.training.train import Pools, train
from app.training.workers import DrawsAtRandom, can_work

Alphabet = Callable[[int, int], Pool]

MAML = Named("maml", {"training_steps": 2, "learned_rates": True, "multi_step_until": 0.5})
LEARNERS = [(MAML, "group"), (MAML, "batch"), (Named("anil"), "batch"), (Named("protonet"), "batch")]


@pytest.fixture(autouse=True)
def _two_threads(_one_thread: None) -> None:
    torch.set_num_threads(2)


def _recipe(recipe: Recipe, learner: Named, norm: str, accumulate: str) -> Recipe:
    episodes = Episodes(5, images=3, meta_batch=5, accumulate=accumulate)  # type: ignore[arg-type]
    stage = replace(recipe.stages[0], episodes=episodes)
    backbone = Named("conv4", {"filters": 8, "norm": norm})
    return replace(recipe, backbone=backbone, learner=learner, stages=(stage,))


def _objective(recipe: Recipe, pool: Pool, mode: str) -> EpisodesObjective:
    found = Blueprint(recipe).objective(0, pool, {}, Ranks())
    assert isinstance(found, EpisodesObjective)
    found.mode = mode  # type: ignore[assignment]
    return found


@pytest.mark.parametrize(("learner", "norm"), LEARNERS)
def test_workers_find_the_gradients_and_the_statistics_of_the_loop(
    learner: Named, norm: str, alphabet: Alphabet, recipe: Recipe
) -> None:
    pool, found = alphabet(12, 0), {}
    for mode in ("loop", "workers"):
        objective = _objective(_recipe(recipe, learner, norm, mode), pool, mode).double()
        outer = OuterLoop(objective, recipe.stages[0].optimiser)
        losses = [outer.gradients(number) for number in range(2)]
        slopes = {name: one.grad for name, one in objective.named_parameters() if one.grad is not None}
        found[mode] = {"losses": torch.stack(losses), **slopes, **dict(objective.named_buffers())}

    assert found["workers"].keys() == found["loop"].keys()
    for name, one in found["loop"].items():
        torch.testing.assert_close(found["workers"][name], one, rtol=1e-9, atol=1e-12, msg=name)


def test_the_same_workers_find_the_same_bits(alphabet: Alphabet, recipe: Recipe) -> None:
    pool, runs = alphabet(12, 0), []
    for _ in range(2):
        objective = _objective(_recipe(recipe, MAML, "group", "workers"), pool, "workers")
        outer = OuterLoop(objective, recipe.stages[0].optimiser)
        for number in range(3):
            outer.step(number)
        runs.append(objective.state_dict())

    assert all(torch.equal(one, runs[1][name]) for name, one in runs[0].items())


def test_a_run_by_workers_learns_and_leaves_torch_as_it_was(recipe: Recipe, pools: Pools) -> None:
    drawn = torch.get_rng_state()

    trained = train(Blueprint(_recipe(recipe, Named("protonet"), "batch", "workers")), pools, Run())

    assert trained.losses[-1] < trained.losses[0]
    assert torch.equal(torch.get_rng_state(), drawn)
    assert torch.get_num_threads() == 2


def test_workers_are_measured_beside_the_loop(alphabet: Alphabet, recipe: Recipe) -> None:
    objective = _objective(_recipe(recipe, MAML, "group", "auto"), alphabet(12, 0), "loop")
    before = {name: one.clone() for name, one in objective.state_dict().items()}

    assert set(fastest_mode(objective)) == {"loop", "workers", "vmap"}
    assert all(torch.equal(one, before[name]) for name, one in objective.state_dict().items())
    assert all(one.grad is None for one in objective.parameters())


def test_workers_need_a_cpu_with_cores_and_episodes_to_share(alphabet: Alphabet, recipe: Recipe) -> None:
    plan = _recipe(recipe, MAML, "group", "auto")
    objective = _objective(plan, alphabet(12, 0), "loop")
    assert can_work(objective)
    objective.ranks = Ranks(0, 2)
    assert not can_work(objective)
    objective.ranks, objective.per_step = Ranks(), 1
    assert not can_work(objective)
    objective.per_step = 2
    torch.set_num_threads(1)
    assert not can_work(objective)


class Dropping(nn.Module):
    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(rows, 0.5)


def test_a_network_that_draws_at_random_is_refused(alphabet: Alphabet, recipe: Recipe) -> None:
    plan = _recipe(recipe, Named("protonet"), "group", "workers")
    objective = _objective(plan, alphabet(12, 0), "workers")
    objective.network.blocks.append(Dropping())
    drawn = torch.get_rng_state()

    with pytest.raises(DrawsAtRandom, match="accumulate"):
        OuterLoop(objective, recipe.stages[0].optimiser).gradients(0)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert fastest_mode(objective)["workers"] == float("inf")


def test_what_an_episode_raises_ends_the_step(alphabet: Alphabet, recipe: Recipe) -> None:
    objective = _objective(_recipe(recipe, MAML, "group", "workers"), alphabet(4, 0), "workers")

    with pytest.raises(ValueError, match="an episode needs 5 classes"):
        OuterLoop(objective, recipe.stages[0].optimiser).gradients(0)
