"""The hand-made optimizers start where the learned one starts, and are measured against a true minimum."""

import pytest
import torch

from app.core.episode import Support
from benchmarks.optimizers import FAMILIES, Problems, Rival, minima, on_embeddings, rivals

SETTINGS = {"steps": 3, "regularisation": 0.05, "temperature": 1.5}


@pytest.fixture
def supports() -> list[Support]:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(3).repeat_interleave(4)
    rows = [torch.randn(12, 5, generator=generator, dtype=torch.float64) + labels[:, None] for _ in range(2)]
    return [Support(one, labels, 3) for one in rows]


def test_all_start_where_the_learner_starts(supports):
    traces = [
        on_embeddings("learned_optimizer", SETTINGS).fit(one.inputs, one.labels, 3)["support_losses"]
        for one in supports
    ]
    those = Problems.of(supports, SETTINGS)
    torch.testing.assert_close(those.losses(those.start), torch.stack(traces)[:, 0])


def test_a_rival_takes_the_steps_of_its_optimizer(supports):
    those = Problems.of(supports, SETTINGS)
    weights = those.start.weights.clone().requires_grad_()
    moved = torch.autograd.grad(3 * those.losses(those.start._replace(weights=weights)).sum(), weights)[0]
    bias = those.start.bias.clone().requires_grad_()
    shifted = torch.autograd.grad(3 * those.losses(those.start._replace(bias=bias)).sum(), bias)[0]
    after = those.start._replace(weights=weights - 0.3 * moved, bias=bias - 0.3 * shifted)
    rival = Rival("SGD", "", lambda parameters: torch.optim.SGD(parameters, lr=0.3))
    torch.testing.assert_close(those.way_of(rival, 1)[:, 1], those.losses(after).detach())


def test_each_task_goes_its_own_way(supports):
    together = Problems.of(supports, SETTINGS)
    for rival in list(rivals())[::40]:
        alone = Problems.of(supports[1:], SETTINGS).way_of(rival, 4)
        torch.testing.assert_close(together.way_of(rival, 4)[1:], alone)


def test_no_way_leads_below_the_minimum_and_a_long_one_leads_there(supports):
    those = Problems.of(supports, SETTINGS)
    least = minima(supports, those, SETTINGS)
    way = those.way_of(Rival("", "", lambda parameters: torch.optim.SGD(parameters, lr=0.5, momentum=0.9)), 300)
    assert bool((way >= least[:, None] - 1e-9).all())
    torch.testing.assert_close(way[:, -1], least, rtol=1e-5, atol=1e-7)


def test_every_family_has_a_grid():
    assert {one.family for one in rivals()} == set(FAMILIES)
