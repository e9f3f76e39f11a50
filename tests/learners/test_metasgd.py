"""Meta-SGD: a rate for every weight."""

import torch

from app.learners import build


def test_untrained_it_is_maml_with_the_same_rates(curved, episodes):
    (episode,) = episodes(1)
    options = {"learning_rate": 0.1, "head_learning_rate": 0.4}
    plain = build("maml", curved().eval(), options).adapt(episode.support)
    found = build("metasgd", curved().eval(), options).adapt(episode.support)
    for key, one in plain.items():
        torch.testing.assert_close(found[key], one)


def test_every_weight_has_a_rate_and_every_class_the_same(curved):
    backbone = curved()
    own = build("metasgd", backbone, {}).own_state()
    expected = {f"rates.backbone/{name.replace('.', '/')}": one.shape for name, one in backbone.named_parameters()}
    expected |= {"rates.head/weight": (5,), "rates.head/bias": (1,)}
    assert {name: tuple(one.shape) for name, one in own.items()} == {k: tuple(v) for k, v in expected.items()}


def test_a_weight_whose_rate_is_zero_stays(curved, episodes):
    (episode,) = episodes(1)
    backbone = curved().eval()
    learner = build("metasgd", backbone, {})
    learner.rates["backbone/first/weight"].data[2, 1] = 0.0
    state = learner.adapt(episode.support)
    moved = state["backbone.first.weight"] != backbone.first.weight
    assert not bool(moved[2, 1])
    assert int(moved.sum()) == moved.numel() - 1


def test_rates_are_stored_and_loaded(curved, episodes):
    (episode,) = episodes(1)
    learner = build("metasgd", curved().eval(), {})
    generator = torch.Generator().manual_seed(0)
    for one in learner.rates.values():
        one.data = one.data * torch.rand(one.shape, generator=generator)
    other = build("metasgd", curved().eval(), {})
    other.load_own_state(learner.own_state())
    first, second = (one.adapt(episode.support) for one in (learner, other))
    assert all(torch.equal(one, second[key]) for key, one in first.items())
