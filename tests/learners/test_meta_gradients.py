"""Gradients through inner loops that adapt weights: against finite differences, by vmap, by another library."""

import higher
import pytest
import torch
from torch import nn

from app.backbones import build as build_backbone
from app.core.episode import Episode, Support
from app.learners import build

CASES = [
    ("maml", {}),
    ("maml", {"learned_rates": True, "multi_step_until": 0.8}),
    ("maml", {"head": "fixed", "head_way": 3}),
    ("maml", {"training_steps": 1}),
    ("maml", {"head_units": "support", "scale": 3.0}),
    ("maml", {"head_units": "support", "head": "fixed", "head_way": 3, "learned_rates": True}),
    ("metasgd", {}),
    ("metasgd", {"training_steps": 1}),
    ("metasgd", {"head_units": "support"}),
    ("protomaml", {"learning_rate": 0.1, "head_learning_rate": 0.1}),
    ("protomaml", {"learning_rate": 0.1, "learned_rates": True, "multi_step_until": 0.5}),
]
every_case = pytest.mark.parametrize(("name", "options"), CASES, ids=str)
FIRST_ORDER = [(name, {**options, "first_order": True}) for name, options in CASES]
NAMES = ["maml", "metasgd", "protomaml"]


@pytest.fixture
def prepared(curved):
    """A learner in float64 and training mode, its own weights moved off their start."""

    def make(name, options, dim=5):
        learner = build(name, curved(dim=dim), options).double().train()
        generator = torch.Generator().manual_seed(3)
        for one in [*learner.offsets.values(), *[p for k, p in learner.named_parameters() if k.startswith("head.")]]:
            one.data = 0.3 * torch.randn(one.shape, generator=generator, dtype=torch.float64)
        for key, one in learner.named_parameters():
            if key.startswith("rates."):
                one.data = one.data + 0.05 * torch.randn(one.shape, generator=generator, dtype=torch.float64)
        learner.training_progress = 0.25
        return learner

    return make


@every_case
def test_meta_gradients_are_those_of_finite_differences(name, options, prepared, episodes):
    learner = prepared(name, options)
    (episode,) = episodes(1, (2, 1, 2))
    parameters = dict(learner.named_parameters())
    found = dict(
        zip(parameters, torch.autograd.grad(learner.episode_loss(episode), list(parameters.values())), strict=True)
    )
    generator = torch.Generator().manual_seed(1)
    for key, parameter in parameters.items():
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        kept, losses = parameter.data, []
        for by in (1e-5, -1e-5):
            parameter.data = kept + by * direction
            losses.append(float(learner.episode_loss(episode).detach()))
        parameter.data = kept
        expected = (losses[0] - losses[1]) / 2e-5
        assert float((found[key] * direction).sum()) == pytest.approx(expected, rel=1e-5, abs=1e-9), key


@pytest.mark.parametrize("name", NAMES)
def test_second_order_differs_from_first_order(name, prepared, episodes):
    (episode,) = episodes(1)
    slopes = []
    for first_order in (False, True):
        learner = prepared(name, {"first_order": first_order, "learning_rate": 0.1, "training_steps": 3})
        weight = dict(learner.backbone.named_parameters())["first.weight"]
        slopes.append(torch.autograd.grad(learner.episode_loss(episode), weight)[0])
    assert torch.linalg.vector_norm(slopes[0] - slopes[1]) > 0.01 * torch.linalg.vector_norm(slopes[0])


def test_first_order_is_the_slope_of_the_queries_at_the_adapted_weights(prepared, episodes):
    (episode,) = episodes(1)
    learner = prepared("maml", {"first_order": True})
    found = torch.autograd.grad(learner.episode_loss(episode), list(learner.backbone.parameters()))
    state = {key: one.detach().requires_grad_() for key, one in learner.adapt(episode.support).items()}
    loss = nn.functional.cross_entropy(learner.logits(state, episode.query_inputs), episode.query_labels)
    names = [f"backbone.{key}" for key, _ in learner.backbone.named_parameters()]
    expected = torch.autograd.grad(loss, [state[key] for key in names])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_training_is_first_order_until_its_time(prepared, episodes):
    (episode,) = episodes(1)
    found = []
    for options, progress in (({}, 0.0), ({"first_order_until": 0.5}, 0.6), ({"first_order_until": 0.5}, 0.4)):
        learner = prepared("maml", options)
        learner.training_progress = progress
        found.append(torch.autograd.grad(learner.episode_loss(episode), learner.backbone.first.weight)[0])
    assert torch.equal(found[0], found[1])
    assert not torch.allclose(found[0], found[2])


@pytest.mark.parametrize(("name", "options"), [*CASES, *FIRST_ORDER], ids=str)
def test_vmap_over_episodes_equals_the_loop(name, options, prepared, episodes):
    if "first_order" in options and name == "metasgd":
        options = {key: value for key, value in options.items() if key in ("first_order", "training_steps")}
    learner = prepared(name, options)
    several = episodes(4)
    parameters = list(learner.parameters())
    loop = torch.stack([learner.episode_loss(one) for one in several]).mean()
    at_once = learner.vmapped_loss(several)
    torch.testing.assert_close(at_once, loop, rtol=1e-10, atol=1e-12)
    pairs = zip(
        torch.autograd.grad(at_once, parameters, allow_unused=True, materialize_grads=True),
        torch.autograd.grad(loop, parameters, allow_unused=True, materialize_grads=True),
        strict=True,
    )
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


PICTURED = {
    "conv4": {"filters": 8, "image_size": 16},
    "conv4 by group": {"filters": 8, "image_size": 16, "norm": "group"},
    "resnet12": {"widths": (3, 4, 4, 5), "image_size": 16, "channels": 1},
}


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("backbone", PICTURED)
@pytest.mark.parametrize("how", ["stacked", "vmap"])
def test_episodes_of_pictures_side_by_side_equal_the_loop(how, backbone, first_order, monkeypatch):
    if how == "vmap":
        monkeypatch.setattr(build_backbone(backbone.split()[0], {}).__class__, "stacks", False)
    network = build_backbone(backbone.split()[0], PICTURED[backbone]).double()
    generator = torch.Generator().manual_seed(0)
    for one in network.parameters():
        one.data = 0.3 * torch.randn(one.shape, generator=generator, dtype=torch.float64)
    learner = build("maml", network, {"first_order": first_order, "training_steps": 3}).double().train()
    labels = torch.arange(3)
    several = [
        Episode(Support(pictures[:3], labels, 3), pictures[3:], labels)
        for pictures in torch.randint(0, 256, (6, 6, 1, 16, 16), generator=generator, dtype=torch.uint8)
    ]
    loop = torch.stack([learner.episode_loss(one) for one in several]).mean()
    at_once = learner.vmapped_loss(several)
    torch.testing.assert_close(at_once, loop, rtol=1e-9, atol=1e-9)
    weights = list(learner.parameters())
    pairs = zip(torch.autograd.grad(at_once, weights), torch.autograd.grad(loop, weights), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


def test_episodes_of_different_ways_do_not_run_side_by_side(prepared, episodes):
    with pytest.raises(ValueError, match="one way"):
        prepared("maml", {}).vmapped_loss([*episodes(1, (1, 1)), *episodes(1, (1, 1, 1))])


@pytest.mark.parametrize("mode", ["training", "evaluation"])
def test_one_tasks_weights_and_meta_gradient_equal_those_of_higher(mode, curved, episodes):
    (episode,) = episodes(1, (2, 2, 2))
    options = {"steps": 4, "training_steps": 4, "learning_rate": 0.2, "head_learning_rate": 0.5}
    backbone = curved()
    learner = build("maml", backbone, options).double().train(mode == "training")
    head = nn.Linear(5, 3).double()
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    # The layers alone: higher cannot patch an abstract class.
    whole = nn.Sequential(backbone.first, backbone.norm, nn.Tanh(), backbone.second, head).eval()
    groups = [{"params": backbone.parameters(), "lr": 0.2}, {"params": head.parameters(), "lr": 0.5}]
    with higher.innerloop_ctx(whole, torch.optim.SGD(groups, lr=1.0), copy_initial_weights=False) as (moved, steps):
        for _ in range(4):
            steps.step(nn.functional.cross_entropy(moved(episode.support.inputs), episode.support.labels))
        loss = nn.functional.cross_entropy(moved(episode.query_inputs), episode.query_labels)
        slopes = torch.autograd.grad(loss, list(backbone.parameters()))
        expected = [one.detach() for one in moved.parameters()]
    backbone.train(mode == "training")
    state = learner.adapt(episode.support)
    for one, other in zip([state[key] for key in state if key != "support_losses"], expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    if mode == "training":
        found = torch.autograd.grad(learner.episode_loss(episode), list(backbone.parameters()))
        for one, other in zip(found, slopes, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
