"""The network on each weight: what it sees, what it is trained by, and that it is no worse than harmless untrained."""

import math

import pytest
import torch
from torch import Tensor

import app.learners.learned_optimizer as module
from app.core.episode import Support
from app.learners import build
from app.learners._head_loop import Head
from app.learners.learned_optimizer import LearnedOptimizer, preprocessed

SETS = [(1, 1), (5, 5, 5), (1, 4, 2, 7), (20, 3)]
every_set = pytest.mark.parametrize("shots", SETS, ids=str)
LOSSES = [{"meta_loss": "trajectory"}, {"meta_loss": "query"}]
NEAR = {"size": 1e-6, "rel": 1e-4, "abs": 1e-7}
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda one: one["meta_loss"])


def seeded(learner: LearnedOptimizer, size: float = 0.5) -> LearnedOptimizer:
    """A network that says something, the same in every run; in the type of the backbone's weights."""
    generator = torch.Generator().manual_seed(8)
    for name, parameter in learner.named_parameters():
        if not name.startswith("backbone."):
            parameter.data = size * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return learner


def slopes_of(learner: LearnedOptimizer) -> dict[str, Tensor]:
    return {name: one.grad for name, one in learner.named_parameters() if one.grad is not None}


def test_gradients_are_preprocessed_as_in_the_paper():
    small = math.exp(-10.0)
    gradients = torch.tensor([1.0, -math.exp(-5.0), 1e3, 1.0001 * small, 0.5 * small, -1e-7, 0.0], dtype=torch.float64)
    first = [0.0, -0.5, math.log(1e3) / 10, math.log(1.0001) / 10 - 1, -1.0, -1.0, -1.0]
    second = [1.0, -1.0, 1.0, 1.0, 0.5, -1e-7 / small, 0.0]
    expected = torch.tensor([first, second], dtype=torch.float64).T
    torch.testing.assert_close(preprocessed(gradients), expected)


def test_a_gradient_of_zero_has_a_finite_slope():
    gradients = torch.tensor([0.0, 1e-9, 1.0], dtype=torch.float64, requires_grad=True)
    preprocessed(gradients).sum().backward()
    torch.testing.assert_close(gradients.grad, torch.tensor([math.exp(10.0), math.exp(10.0), 0.1], dtype=torch.float64))


def test_a_layer_is_an_lstm(same):
    layer = build("learned_optimizer", same, {}).layers[0]
    generator = torch.Generator().manual_seed(1)
    seen, output, cell = (torch.randn(7, size, generator=generator) for size in (2, 20, 20))
    torch.testing.assert_close(module._lstm(layer, seen, output, cell), layer(seen, (output, cell)))


def test_each_weight_is_moved_by_itself(same):
    learner = seeded(build("learned_optimizer", same, {}))
    generator = torch.Generator().manual_seed(1)
    slopes = [torch.randn(5, 3, generator=generator, dtype=torch.float64) for _ in range(2)]
    order = torch.randperm(15, generator=generator)
    moves = []
    for turn in (torch.arange(15), order):
        memory = learner._blank(Head(slopes[0][:-1], slopes[0][-1]))
        for slope in slopes:
            seen = preprocessed(slope.flatten()[turn])
            says, memory = learner._network(seen, memory)
        moves.append(says)
    torch.testing.assert_close(moves[1], moves[0][order])


def test_permuting_the_dimensions_of_the_embeddings_permutes_the_weights(same, blobs):
    features, labels = blobs((3, 2, 4), 6)
    learner = seeded(build("learned_optimizer", same, {}), 0.2)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    plain, permuted = (learner.fit(rows, labels, 3) for rows in (features, features[:, order]))
    torch.testing.assert_close(permuted["weights"], plain["weights"][order])
    torch.testing.assert_close(permuted["bias"], plain["bias"])


@every_set
def test_a_network_that_says_something_sees_neither_order_nor_label_numbers(shots, same, blobs):
    inputs, labels = blobs(shots, 12)
    queries, _ = blobs((4, 4), 12, seed=1)
    generator = torch.Generator().manual_seed(3)
    order, number = torch.randperm(len(labels), generator=generator), torch.randperm(len(shots), generator=generator)
    learner = seeded(build("learned_optimizer", same, {}), 0.2)

    def scores(rows: Tensor, names: Tensor) -> Tensor:
        return learner.logits(learner.adapt(Support(rows, names, len(shots))), queries)

    plain = scores(inputs, labels)
    size = float(plain.abs().max().clamp_min(1))
    torch.testing.assert_close(scores(inputs[order], labels[order]), plain, rtol=1e-6, atol=1e-6 * size)
    torch.testing.assert_close(scores(inputs, number[labels])[:, number], plain, rtol=1e-5, atol=1e-5 * size)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e12, 1e30], ids=str)
def test_a_network_that_says_something_gives_finite_logits(scale, same, blobs):
    inputs, labels = blobs((3, 1, 4), 5)
    learner = seeded(build("learned_optimizer", same, {}), 3.0)
    logits = learner.logits(learner.adapt(Support(scale * inputs, labels, 3)), scale * inputs)
    assert bool(logits.isfinite().all())


def test_before_training_the_head_stays_at_the_prototypes(same, blobs):
    features, labels = blobs((4, 1, 3), 6)
    heads = [
        build("learned_optimizer", same, {"temperature": 3.0}),
        build("protonet", same, {"relative": True, "temperature": 3.0}),
    ]
    scores = [one.score(one.fit(features, labels, 3), features).log_softmax(1) for one in heads]
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shots", [(4, 4, 4), (5, 1, 3)], ids=str)
def test_it_optimises_what_logistic_minimises(shots, same, blobs, monkeypatch):
    def descend(self: LearnedOptimizer, slope: Head, memory: object) -> tuple[Head, object]:
        return Head(-0.5 * slope.weights, -0.5 * slope.bias), memory

    monkeypatch.setattr(LearnedOptimizer, "_step", descend)
    features, labels = blobs(shots, 6)
    options = {"regularisation": 0.3, "temperature": 1.5}
    found = build("learned_optimizer", same, {**options, "steps": 400}).fit(features, labels, 3)
    expected = build("logistic", same, options).fit(features, labels, 3)
    torch.testing.assert_close(found["weights"], expected["weights"], rtol=1e-3, atol=1e-3)
    assert bool((found["support_losses"].diff() <= 1e-6).all())


@every_loss
def test_with_all_gradients_kept_the_meta_gradient_is_that_of_finite_differences(
    loss, linear, episode, check_by_differences
):
    learner = seeded(build("learned_optimizer", linear(4, 3), {**loss, "first_order": False, "steps": 4, "hidden": 5}))
    learner.episode_loss(episode()).backward()
    check_by_differences(learner, episode(), dict(learner.named_parameters()), **NEAR)


@every_loss
def test_without_the_gradients_of_gradients_it_is_that_at_gradients_held_still(
    loss, same, episode, monkeypatch, check_by_differences
):
    learner = seeded(build("learned_optimizer", same.train(), {**loss, "steps": 4, "hidden": 5}))
    seen: list[Head] = []
    step = LearnedOptimizer._step

    def recorded(self: LearnedOptimizer, slope: Head, memory: object) -> tuple[Head, object]:
        seen.append(slope)
        return step(self, slope, memory)

    def replayed(self: LearnedOptimizer, slope: Head, memory: object) -> tuple[Head, object]:
        seen.append(seen.pop(0))
        return step(self, seen[-1], memory)

    monkeypatch.setattr(LearnedOptimizer, "_step", recorded)
    learner.episode_loss(episode()).backward()
    monkeypatch.setattr(LearnedOptimizer, "_step", replayed)
    check_by_differences(learner, episode(), dict(learner.named_parameters()), **NEAR)


@every_loss
@pytest.mark.parametrize("first_order", [True, False], ids=["first order", "second order"])
def test_tasks_side_by_side_have_the_loss_and_the_gradients_of_the_loop(loss, first_order, linear, episode):
    episodes = [episode(seed) for seed in range(3)]
    options = {**loss, "first_order": first_order, "steps": 4, "hidden": 5}
    learner = seeded(build("learned_optimizer", linear(4, 3), options))
    found = []
    several = learner.vmapped_loss(episodes), torch.stack([learner.episode_loss(one) for one in episodes]).mean()
    for value in several:
        learner.zero_grad()
        value.backward()
        found.append((value.detach(), slopes_of(learner)))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-12)


@every_loss
def test_the_loss_of_embeddings_is_that_of_the_episode(loss, same, episode):
    learner = seeded(build("learned_optimizer", same, loss))
    torch.testing.assert_close(learner.feature_loss(episode()), learner.episode_loss(episode()))


def test_cutting_the_graph_changes_the_gradient_and_not_the_loss(same, episode):
    found = []
    for truncation in (0, 2):
        options = {"steps": 6, "hidden": 5, "truncation": truncation, "first_order": False}
        learner = seeded(build("learned_optimizer", same.train(), options))
        loss = learner.episode_loss(episode())
        loss.backward()
        found.append((loss.detach(), slopes_of(learner)["output.weight"]))
    torch.testing.assert_close(found[0][0], found[1][0])
    assert float((found[0][1] - found[1][1]).norm()) > 1e-3 * float(found[0][1].norm())


def test_a_large_head_moves_as_a_small_one(same, blobs, monkeypatch):
    features, labels = blobs((3, 2, 4), 6)
    learner = seeded(build("learned_optimizer", same, {}), 0.2)
    exact = learner.fit(features, labels, 3)
    monkeypatch.setattr(module, "_AT_ONCE", 4)
    torch.testing.assert_close(learner.fit(features, labels, 3), exact, rtol=1e-6, atol=1e-6)
    monkeypatch.setattr(module, "_EXACT_BELOW", 0)
    torch.testing.assert_close(learner.fit(features, labels, 3), exact, rtol=1e-2, atol=1e-2)


def test_the_scale_and_the_origin_of_the_embeddings_are_no_matter(same, blobs):
    features, labels = blobs((4, 3), 5)
    learner = seeded(build("learned_optimizer", same, {}), 0.2)
    moved = 64 * features - 8
    plain, other = (learner.score(learner.fit(rows, labels, 2), rows) for rows in (features, moved))
    torch.testing.assert_close(other, plain, rtol=1e-3, atol=1e-3)


def test_a_few_meta_steps_teach_it_to_lower_the_loss_of_new_tasks(same, episode):
    options = {"steps": 5, "hidden": 8, "temperature": 0.0, "regularisation": 0.01}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        learner = build("learned_optimizer", same.train(), options)
    optimiser = torch.optim.Adam(learner.parameters(), 0.02)
    for step in range(30):
        optimiser.zero_grad()
        learner.vmapped_loss([episode(4 * step + one) for one in range(4)]).backward()
        optimiser.step()
    traces = [learner.eval().adapt(episode(1000 + one).support)["support_losses"] for one in range(10)]
    before, after = torch.stack(traces).mean(dim=0)[[0, -1]].tolist()
    assert before == pytest.approx(math.log(3))
    assert after < before / 2


def test_what_was_learned_moves_to_another_instance(same, blobs):
    features, labels = blobs((3, 2, 4), 6)
    trained, other = (build("learned_optimizer", same, {}) for _ in range(2))
    seeded(trained, 0.2).float()
    other.load_own_state(trained.own_state())
    states = [learner.fit(features, labels, 3) for learner in (trained, other)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    with pytest.raises(RuntimeError, match="size mismatch"):
        build("learned_optimizer", same, {"hidden": 8}).load_own_state(trained.own_state())


def test_adapting_leaves_no_graph_and_no_tensor_behind(linear, episode, check_nothing_stays):
    check_nothing_stays(seeded(build("learned_optimizer", linear(4, 3), {})).eval(), episode().support)


def test_it_serves_any_way(same):
    assert build("learned_optimizer", same, {}).ways is None
