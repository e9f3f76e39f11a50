"""MAML: its heads, its rates, its steps."""

import pytest
import torch
from torch import nn

from app.core.episode import Support
from app.core.errors import InvalidSetting
from app.learners import build


def test_a_step_is_what_the_formula_says(curved, episodes):
    (episode,) = episodes(1, (1, 1, 1))
    backbone = curved().eval()
    learner = build("maml", backbone, {"steps": 2, "learning_rate": 0.25, "head_learning_rate": 2.0})
    state = learner.adapt(episode.support)
    weights = [*(one.detach().clone() for one in backbone.parameters()), torch.zeros(3, 5), torch.zeros(3)]
    rates = [0.25] * 6 + [2.0] * 2
    for _ in range(2):
        weights = [one.double().requires_grad_() for one in weights]
        names = [name for name, _ in backbone.named_parameters()]
        own = dict(zip(names, weights, strict=False))
        features = torch.func.functional_call(backbone, own, (episode.support.inputs,))
        loss = nn.functional.cross_entropy(features @ weights[6].T + weights[7], episode.support.labels)
        slopes = torch.autograd.grad(loss, weights)
        weights = [(one - rate * slope).detach() for one, slope, rate in zip(weights, slopes, rates, strict=True)]
    for key, expected in zip([key for key in state if key != "support_losses"], weights, strict=True):
        torch.testing.assert_close(state[key], expected)


def test_a_row_that_all_classes_share_changes_no_probability(curved, episodes):
    # That is why the shared head needs no meta-trained row.
    (episode,) = episodes(1)
    shared = build("maml", curved().eval(), {})
    fixed = build("maml", curved().eval(), {"head": "fixed", "head_way": 3}).double()
    fixed.head.weight.data = torch.randn(5, generator=torch.Generator().manual_seed(0)).double().expand(3, 5).clone()
    fixed.head.bias.data += 2.0
    found = [one.logits(one.adapt(episode.support), episode.query_inputs).softmax(1) for one in (shared, fixed)]
    torch.testing.assert_close(found[0], found[1])


def test_a_fixed_head_serves_its_way_alone(curved, episodes):
    learner = build("maml", curved().eval(), {"head": "fixed", "head_way": 3}).double()
    assert learner.ways == (3, 3)
    assert set(learner.own_state()) == {"head.weight", "head.bias"}
    learner.adapt(episodes(1, (1, 1, 1))[0].support)
    with pytest.raises(ValueError, match="3 classes, and 2 labels"):
        learner.adapt(episodes(1, (1, 1))[0].support)


def test_a_shared_head_serves_any_way(curved, episodes):
    learner = build("maml", curved().eval(), {})
    assert learner.ways is None
    for way in (2, 3, 9):
        (episode,) = episodes(1, (2,) * way)
        assert learner.logits(learner.adapt(episode.support), episode.query_inputs).shape == (3 * way, way)


def test_a_fixed_head_in_float32_adapts_in_evaluation_mode(curved, episodes):
    support = episodes(1)[0].support
    learner = build("maml", curved().float(), {"head": "fixed", "head_way": 3}).eval()
    state = learner.adapt(Support(support.inputs.float(), support.labels, 3))
    assert state["head.weight"].dtype == torch.float32
    assert float(state["support_losses"][-1]) < float(state["support_losses"][0])


def test_a_backbone_without_a_dim_of_its_own_has_no_fixed_head(same):
    with pytest.raises(InvalidSetting, match="no fixed head"):
        build("maml", same, {"head": "fixed"})


def test_learned_rates_change_nothing_before_they_are_trained(curved, episodes):
    (episode,) = episodes(1)
    plain = build("maml", curved().eval(), {}).adapt(episode.support)
    learned = build("maml", curved().eval(), {"learned_rates": True}).adapt(episode.support)
    for key, one in plain.items():
        torch.testing.assert_close(learned[key], one)


def test_learned_rates_are_stored_and_loaded(curved, episodes):
    (episode,) = episodes(1)
    options = {"learned_rates": True, "training_steps": 3}
    learner = build("maml", curved().eval(), options)
    assert {key: tuple(one.shape) for key, one in learner.own_state().items()} == {"rates.logs": (3, 8)}
    learner.rates.logs.data += torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    other = build("maml", curved().eval(), options)
    other.load_own_state(learner.own_state())
    first, second = (one.adapt(episode.support) for one in (learner, other))
    assert all(torch.equal(one, second[key]) for key, one in first.items())
    with pytest.raises(RuntimeError, match=r"rates\.logs"):
        build("maml", curved().eval(), {}).load_own_state(learner.own_state())


def test_steps_past_the_trained_ones_take_the_rates_of_the_last(curved, episodes):
    (episode,) = episodes(1)
    longer = build("maml", curved().eval(), {"learned_rates": True, "training_steps": 4, "steps": 4})
    shorter = build("maml", curved().eval(), {"learned_rates": True, "training_steps": 2, "steps": 4})
    rows = torch.randn(2, 8, generator=torch.Generator().manual_seed(0)) / 2
    shorter.rates.logs.data = rows
    longer.rates.logs.data = rows[[0, 1, 1, 1]]
    first, second = (one.adapt(episode.support) for one in (shorter, longer))
    assert all(torch.equal(one, second[key]) for key, one in first.items())


def test_the_learned_settings_start_at_what_was_set(curved):
    learner = build("maml", curved(), {"learning_rate": 0.3, "head_learning_rate": 0.7})
    assert learner.learned_settings() == {"learning_rate": 0.3, "head_learning_rate": 0.7, "scale": 1.0}


def test_multi_step_loss_is_the_mean_of_the_losses_after_each_step(curved, episodes):
    (episode,) = episodes(1)
    options = {"training_steps": 3}
    learner = build("maml", curved(), {**options, "multi_step_until": 0.5})
    learner.training_progress = 0.0
    losses = [
        float(build("maml", curved(), {"training_steps": steps}).episode_loss(episode).detach()) for steps in (1, 2, 3)
    ]
    assert float(learner.episode_loss(episode).detach()) == pytest.approx(sum(losses) / 3)
    learner.training_progress = 0.5
    assert float(learner.episode_loss(episode).detach()) == pytest.approx(losses[-1])


def test_episodes_on_one_backbone_learn_to_adapt(curved, episodes):
    several = episodes(6)
    learner = build("maml", curved().train(), {})
    optimiser = torch.optim.Adam(learner.parameters(), 0.01)
    losses = []
    for _ in range(40):
        loss = learner.vmapped_loss(several)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]
    assert learner.learned_settings() != {"learning_rate": 0.05, "head_learning_rate": 0.5}
