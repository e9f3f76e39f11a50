import pytest
import torch
from torch import nn

from app.training.errors import BadRecipe
from app.training.recipe import Optimiser
from app.training.schedule import clip, learning_rate, new_optimiser, set_learning_rate


def test_the_learning_rate_warms_up_and_falls_to_its_final_share_in_every_cycle() -> None:
    plan = Optimiser(cycles=(100, 50), learning_rate=0.1, cycle_decay=0.5, warmup_steps=10, final_share=0.01)
    rates = [learning_rate(plan, step) for step in range(plan.steps)]
    assert (rates[0], rates[99]) == (pytest.approx(0.01), pytest.approx(0.001))
    assert (rates[100], rates[149]) == (pytest.approx(0.005), pytest.approx(0.0005))
    assert max(rates[:100]) == pytest.approx(0.1, rel=0.05)
    assert max(rates[100:]) == pytest.approx(0.05, rel=0.15)
    assert rates[20:100] == sorted(rates[20:100], reverse=True)


@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd"])
def test_what_is_the_learners_own_learns_at_its_factor_and_is_not_decayed(kind: str) -> None:
    plan = Optimiser((10,), 0.1, kind=kind, weight_decay=0.5, learner_factor=3.0)
    network, own = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2, dtype=torch.float64))
    optimiser = new_optimiser(plan, [network], [own])
    set_learning_rate(optimiser, plan, 0)
    assert [group["lr"] for group in optimiser.param_groups] == [pytest.approx(0.1), pytest.approx(0.3)]
    network.grad, own.grad = torch.zeros(2), torch.zeros(2, dtype=torch.float64)
    optimiser.step()
    assert bool((network < 1).all())
    assert bool((own == 1).all())


def test_nothing_to_train_is_said_so() -> None:
    frozen = nn.Parameter(torch.ones(2), requires_grad=False)
    with pytest.raises(BadRecipe, match="nothing to train"):
        new_optimiser(Optimiser((1,), 0.1), [frozen], [])


def test_a_gradient_is_shortened_to_the_norm_over_all_that_is_trained() -> None:
    one, other = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimiser = new_optimiser(Optimiser((1,), 0.1), [one], [other])
    one.grad, other.grad = torch.tensor([3.0]), torch.tensor([4.0], dtype=torch.float64)
    clip(optimiser, None)
    assert (one.grad.item(), other.grad.item()) == (3, 4)
    clip(optimiser, 1.0)
    assert (one.grad.item(), other.grad.item()) == (pytest.approx(0.6), pytest.approx(0.8))
