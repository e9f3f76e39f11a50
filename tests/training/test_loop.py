from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from app.training.evaluate import embed_pool
from app.training.loop import Progress, head_of, learning_rate, new_backbone, step_loss, train
from app.training.recipe import Optimiser, Recipe
from app.training.sampler import Pool

Alphabet = Callable[[int, int], Pool]


def test_two_training_steps_lower_the_loss_and_repeat_exactly(alphabet: Alphabet, recipe: Recipe) -> None:
    def losses() -> list[float]:
        backbone, head, pool = new_backbone(recipe).train(), head_of(recipe.learner), alphabet(12, 0)
        optimiser = torch.optim.Adam(backbone.parameters(), 0.01)
        seen = []
        for _ in range(3):
            loss = step_loss(recipe, backbone, head, pool, torch.Generator().manual_seed(5))
            seen.append(loss.item())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return seen

    first = losses()
    assert first[2] < first[1] < first[0]
    assert losses() == first


def test_a_run_keeps_the_best_step_and_repeats_exactly(alphabet: Alphabet, recipe: Recipe) -> None:
    def run() -> tuple[list[Progress], Pool, Progress]:
        seen: list[Progress] = []
        trained = train(recipe, alphabet(12, 0), alphabet(8, 1), seen.append)
        assert not trained.backbone.training
        return seen, embed_pool(trained.backbone, alphabet(8, 1)), trained.best

    seen, features, best = run()
    assert [one.step for one in seen] == [6, 12]
    assert best.validation.mean == max(one.validation.mean for one in seen)
    again, same_features, _ = run()
    assert [one.loss for one in again] == [one.loss for one in seen]
    assert torch.equal(same_features.inputs, features.inputs)


def test_training_leaves_the_global_generator_alone(alphabet: Alphabet, recipe: Recipe) -> None:
    before = torch.random.get_rng_state()
    short = replace(recipe, optimiser=replace(recipe.optimiser, cycles=(1,)))
    train(short, alphabet(12, 0), alphabet(8, 1), lambda progress: None)
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_mean_over_splits_is_that_of_the_single_episodes(alphabet: Alphabet, recipe: Recipe) -> None:
    backbone, head, pool = new_backbone(recipe).train(), head_of(recipe.learner), alphabet(12, 0)

    def loss(splits: int) -> float:
        plan = replace(recipe, episodes=replace(recipe.episodes, splits=splits))
        return step_loss(plan, backbone, head, pool, torch.Generator().manual_seed(5)).item()

    one, two, three = loss(1), loss(2), loss(3)
    assert len({one, two, three}) == 3
    assert loss(1) == pytest.approx(one)


def test_the_learning_rate_warms_up_and_falls_to_its_final_share_in_every_cycle() -> None:
    plan = Optimiser(cycles=(100, 50), learning_rate=0.1, cycle_decay=0.5, warmup_steps=10, final_share=0.01)
    rates = [learning_rate(plan, step) for step in range(plan.steps)]
    assert (rates[0], rates[99]) == (pytest.approx(0.01), pytest.approx(0.001))
    assert (rates[100], rates[149]) == (pytest.approx(0.005), pytest.approx(0.0005))
    assert max(rates[:100]) == pytest.approx(0.1, rel=0.05)
    assert max(rates[100:]) == pytest.approx(0.05, rel=0.15)
    assert rates[20:100] == sorted(rates[20:100], reverse=True)
