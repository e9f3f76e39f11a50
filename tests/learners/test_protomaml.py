"""Proto-MAML: the head starts at the class means."""

import pytest
import torch

from app.learners import build


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_with_rates_of_next_to_nothing_it_is_a_prototypical_network(temperature, curved, episodes):
    (episode,) = episodes(1, (3, 1, 2))
    backbone = curved().eval()
    still = {"learning_rate": 1e-12, "head_learning_rate": 1e-12, "temperature": temperature}
    learner = build("protomaml", backbone, still)
    prototypical = build("protonet", backbone, {"temperature": temperature})
    found, expected = (
        one.logits(one.adapt(episode.support), episode.query_inputs).softmax(1) for one in (learner, prototypical)
    )
    torch.testing.assert_close(found, expected)


def test_the_gradient_flows_through_the_start(curved, episodes):
    # In first order the slopes are plain numbers: what reaches the temperature comes by way of the start alone.
    (episode,) = episodes(1)
    learner = build("protomaml", curved().train(), {"first_order": True})
    (slope,) = torch.autograd.grad(learner.episode_loss(episode), learner.offsets["temperature"])
    assert slope.abs() > 1e-3


def test_any_way_is_served(curved, episodes):
    learner = build("protomaml", curved().eval(), {})
    assert learner.ways is None
    for way in (2, 7):
        (episode,) = episodes(1, (2,) * way)
        assert learner.logits(learner.adapt(episode.support), episode.query_inputs).shape == (3 * way, way)


def test_the_temperature_and_the_rates_are_learned_settings(curved):
    learner = build("protomaml", curved(), {"temperature": 3.0})
    assert learner.learned_settings() == {"learning_rate": 0.01, "head_learning_rate": 0.01, "temperature": 3.0}
