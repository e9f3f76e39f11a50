"""Reptile: the gradient that draws the weights to where training leads."""

import pytest
import torch
from torch import nn

from app.learners import build
from app.learners.reptile import _batches


def _phi_by_torch(backbone, episode, optimiser, batches, steps):
    """Where torch's own optimiser leads, on copies; the head starts at zero."""
    inputs = torch.cat([episode.support.inputs, episode.query_inputs])
    labels = torch.cat([episode.support.labels, episode.query_labels])
    names = [name for name, _ in backbone.named_parameters()]
    own = [one.detach().clone().requires_grad_() for one in backbone.parameters()]
    head = nn.Linear(5, 3).double()
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    groups = [{"params": own, "lr": 0.01}, {"params": head.parameters(), "lr": 0.05}]
    taker = torch.optim.SGD(groups) if optimiser == "sgd" else torch.optim.Adam(groups, betas=(0.0, 0.999))
    backbone.eval()
    losses = []
    for step in range(steps):
        rows = batches[step % len(batches)]
        features = torch.func.functional_call(backbone, dict(zip(names, own, strict=True)), (inputs[rows],))
        loss = nn.functional.cross_entropy(head(features), labels[rows])
        taker.zero_grad()
        loss.backward()
        taker.step()
        losses.append(float(loss.detach()))
    backbone.train()
    return own, losses


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
@pytest.mark.parametrize("steps", [1, 6])
def test_the_gradient_is_theta_minus_phi_and_the_value_the_mean_loss(optimiser, steps, curved, episodes):
    (episode,) = episodes(1)
    options = {"learning_rate": 0.01, "head_learning_rate": 0.05, "optimiser": optimiser, "training_steps": steps}
    learner = build("reptile", curved().train(), options)
    loss = learner.episode_loss(episode)
    found = torch.autograd.grad(loss, list(learner.backbone.parameters()))
    labels = torch.cat([episode.support.labels, episode.query_labels])
    phi, losses = _phi_by_torch(learner.backbone, episode, optimiser, list(_batches(labels, 1)), steps)
    for slope, theta, end in zip(found, learner.backbone.parameters(), phi, strict=True):
        torch.testing.assert_close(slope, theta.detach() - end.detach(), rtol=1e-6, atol=1e-10)
    assert float(loss.detach()) == pytest.approx(sum(losses) / len(losses))


def test_a_step_of_plain_descent_at_rate_one_lands_on_phi(curved, episodes):
    (episode,) = episodes(1)
    learner = build("reptile", curved().train(), {})
    optimiser = torch.optim.SGD(learner.backbone.parameters(), 1.0)
    labels = torch.cat([episode.support.labels, episode.query_labels])
    options = {"learning_rate": 0.01, "head_learning_rate": 0.05}
    learner = build("reptile", learner.backbone, options)
    phi, _ = _phi_by_torch(learner.backbone, episode, "adam", list(_batches(labels, 1)), 5)
    learner.episode_loss(episode).backward()
    optimiser.step()
    for theta, end in zip(learner.backbone.parameters(), phi, strict=True):
        torch.testing.assert_close(theta.detach(), end.detach())


def test_batches_hold_each_example_once_and_each_class_alike():
    labels = torch.tensor([2, 0, 1, 0, 2, 1, 0, 1, 2])
    batches = list(_batches(labels, 2))
    assert [labels[rows].bincount().tolist() for rows in batches] == [[2, 2, 2], [1, 1, 1]]
    assert sorted(torch.cat(batches).tolist()) == list(range(9))


def test_it_learns_from_episodes(curved, episodes):
    several = episodes(4)
    learner = build("reptile", curved().train(), {"learning_rate": 0.01, "head_learning_rate": 0.05})
    optimiser = torch.optim.SGD(learner.parameters(), 0.5)
    losses = []
    for _ in range(25):
        loss = torch.stack([learner.episode_loss(one) for one in several]).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
