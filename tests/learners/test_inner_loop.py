"""The inner loop itself: a quadratic with a closed form, its pieces, its memory, its failures."""

import contextlib
import gc
import weakref

import pytest
import torch
from torch import Tensor

from app.backbones import build as build_backbone
from app.core.episode import Support
from app.learners import build
from app.learners._inner_loop import (
    Diverged,
    Start,
    SupportLoss,
    at_rates,
    class_shares,
    descend,
    past,
    side_by_side,
    step_shares,
    through,
)
from app.learners._select import judge

WEIGHT_LEARNERS = ["finetune", "maml", "metasgd", "protomaml", "reptile"]
every_weight_learner = pytest.mark.parametrize("name", WEIGHT_LEARNERS)


class _Quadratic(SupportLoss):
    """1/2 (w - c)^T A (w - c), in place of a cross-entropy; the inputs are A with c as its last row."""

    def slopes(self, weights, passed=None, *, head_alone=False):
        weights = weights if self.graph else {name: one.detach() for name, one in weights.items()}
        matrix, centre = self.inputs[:-1], self.inputs[-1]
        point, pull = self.differentiate(self.embed, weights, self.inputs)
        away = point[0] - centre
        return away @ matrix @ away / 2, pull((matrix @ away)[None])


def _quadratic(differentiate, graph) -> tuple[SupportLoss, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    matrix, centre = root @ root.T / 4, torch.randn(4, generator=generator, dtype=torch.float64)
    inputs = torch.cat([matrix, centre[None]])
    embed = lambda weights, _: weights["backbone.w"][None]  # noqa: E731
    return _Quadratic(embed, differentiate, graph, inputs, torch.empty(5, 2), 5, lambda: None), matrix, centre


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("way", ["second order", "second order by vjp", "first order"])
def test_the_meta_gradient_on_a_quadratic_is_the_one_found_by_hand(steps, way):
    # w_k - c = (I - rate A)^k (w_0 - c); for 1/2 |w_k - d|^2 the slope in w_0 is (I - rate A)^k (w_k - d), and in
    # first order w_k - d; the slope in the rate is -(w_k - d) k A (I - rate A)^(k - 1) (w_0 - c).
    differentiate = {"second order": through, "second order by vjp": side_by_side, "first order": past}[way]
    loss, matrix, centre = _quadratic(differentiate, way != "first order")
    start = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64, requires_grad=True)
    rate = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    goal = torch.tensor([0.0, 1.0, 2.0, -1.0], dtype=torch.float64)
    begin = Start({"backbone.w": start}, at_rates(lambda _: {"backbone.w": rate}))
    points = descend(loss, begin, steps, head_at_zero=False)
    *_, (_, weights) = points
    found = torch.autograd.grad((weights["backbone.w"] - goal).square().sum() / 2, [start, rate])

    shrink = torch.eye(4, dtype=torch.float64) - 0.3 * matrix
    away = start.detach() - centre
    end = centre + torch.linalg.matrix_power(shrink, steps) @ away
    torch.testing.assert_close(weights["backbone.w"].detach(), end)
    if way == "first order":
        expected = end - goal
    else:
        expected = torch.linalg.matrix_power(shrink, steps) @ (end - goal)
        turn = -steps * matrix @ torch.linalg.matrix_power(shrink, steps - 1) @ away
        torch.testing.assert_close(found[1], (end - goal) @ turn)
    torch.testing.assert_close(found[0], expected)


def test_every_class_weighs_the_same():
    shares = class_shares(torch.tensor([0, 1, 0, 0]), 2, torch.float64)
    torch.testing.assert_close(shares.T, torch.tensor([[1 / 6, 0, 1 / 6, 1 / 6], [0, 0.5, 0, 0]]).double())


def test_the_loss_of_early_steps_fades_out():
    assert step_shares(4, 0.5, 0.0) == pytest.approx([0.25] * 4)
    assert step_shares(4, 0.5, 0.25) == pytest.approx([0.125, 0.125, 0.125, 0.625])
    assert step_shares(4, 0.5, 0.5) == step_shares(4, 0.0, 0.0) == step_shares(4, 0.5, 1.0) == [0, 0, 0, 1]


@every_weight_learner
def test_the_trace_holds_the_loss_before_each_step_and_at_the_end(name, curved, episodes):
    (episode,) = episodes(1, (3, 2))
    learner = build(name, curved().eval(), {"steps": 7})
    state = learner.adapt(episode.support)
    assert state["support_losses"].shape == (8,)
    assert state["support_losses"][-1] < state["support_losses"][0]
    logs = learner.logits(state, episode.support.inputs).log_softmax(1)
    expected = -(class_shares(episode.support.labels, 2, torch.float64) * logs).sum()
    torch.testing.assert_close(state["support_losses"][-1], expected)


@every_weight_learner
def test_only_adapted_weights_and_the_trace_are_in_the_state(name, curved, episodes):
    (episode,) = episodes(1)
    backbone = curved().eval()
    state = build(name, backbone, {}).adapt(episode.support)
    own = {f"backbone.{key}" for key, _ in backbone.named_parameters()}
    assert set(state) == own | {"head.weight", "head.bias", "support_losses"}
    assert state["head.weight"].shape == (3, 5)
    assert not any(one.requires_grad for one in state.values())
    taken = {one.data_ptr() for one in backbone.parameters()}
    assert not taken & {one.data_ptr() for one in state.values()}


@every_weight_learner
@pytest.mark.parametrize("mode", ["training", "evaluation"])
def test_the_backbone_stays_as_it_was(name, mode, curved, episodes):
    (episode,) = episodes(1)
    backbone = curved().train(mode == "training")
    learner = build(name, backbone, {})
    before = {key: one.clone() for key, one in learner.state_dict().items()}
    learner.adapt(episode.support)
    if name != "finetune":
        learner.episode_loss(episode)
    assert all(torch.equal(one, before[key]) for key, one in learner.state_dict().items())
    assert all(one.training == (mode == "training") for one in backbone.modules())


@every_weight_learner
def test_adapting_under_no_grad_gives_the_same_state(name, curved, episodes):
    (episode,) = episodes(1)
    learner = build(name, curved().eval(), {})
    plain = learner.adapt(episode.support)
    with torch.no_grad():
        silent = learner.adapt(episode.support)
    assert all(torch.equal(one, silent[key]) for key, one in plain.items())


@pytest.mark.parametrize("name", ["maml", "metasgd", "protomaml"])
def test_training_and_evaluation_adapt_alike(name, curved, episodes):
    (episode,) = episodes(1)
    learner = build(name, curved(), {"steps": 4, "training_steps": 4})
    trained = learner.train().adapt(episode.support)
    served = learner.eval().adapt(episode.support)
    assert all(one.requires_grad for key, one in trained.items() if key != "support_losses")
    for key, one in served.items():
        torch.testing.assert_close(one, trained[key].detach())


@every_weight_learner
def test_small_chunks_give_the_same_state(name, curved, episodes, monkeypatch):
    (episode,) = episodes(1, (4, 5, 2))
    backbone = curved().eval()
    learner = build(name, backbone, {})
    whole = learner.adapt(episode.support)
    monkeypatch.setattr(backbone, "micro_batch_examples", lambda _: 3)
    beats = []
    chunked = learner.adapt(episode.support, on_step=lambda: beats.append(1))
    assert len(beats) == 4 * learner.settings.steps
    for key, one in whole.items():
        torch.testing.assert_close(chunked[key], one)


@every_weight_learner
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_querys_logits_do_not_depend_on_the_others(name, norm):
    backbone = _pictured({"norm": norm}).train()
    learner = build(name, backbone, {"steps": 3})
    pictures = torch.randint(0, 256, (12, 1, 16, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    state = learner.adapt(Support(pictures[:4], torch.tensor([0, 1, 0, 1]), 2))
    together = learner.logits(state, pictures[4:])
    alone = torch.cat([learner.logits(state, one[None]) for one in pictures[4:]])
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5)


@every_weight_learner
def test_memory_does_not_grow_with_the_number_of_adapted_tasks(name, curved, episodes):
    several = episodes(12)
    learner = build(name, curved().eval(), {})
    graphs = weakref.WeakSet()
    kept = learner.embed

    def watched(weights, inputs):
        features = kept(weights, inputs)
        graphs.add(features)
        return features

    learner.embed = watched
    counts = []
    gc.freeze()  # what is there by now need not be looked through
    try:
        for episode in several:
            learner.adapt(episode.support)
            gc.collect()
            counts.append(sum(issubclass(type(one), Tensor) for one in gc.get_objects()))
            assert not list(graphs)
    finally:
        gc.unfreeze()
    assert counts[1:] == counts[1:2] * (len(several) - 1)


@every_weight_learner
@pytest.mark.parametrize("rate", [1e3, 30.0])
def test_an_absurd_rate_gives_finite_answers_or_a_clear_refusal(name, rate):
    learner = build(name, _pictured({}).eval(), {"steps": 30, "learning_rate": rate, "head_learning_rate": rate})
    pictures = torch.randint(0, 256, (9, 1, 16, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    with contextlib.suppress(Diverged):
        state = learner.adapt(Support(pictures[:6], torch.tensor([0, 1, 2] * 2), 3))
        assert bool(learner.logits(state, pictures).isfinite().all())


@every_weight_learner
def test_numbers_that_are_not_finite_are_refused_and_the_setting_is_named(name, curved, episodes):
    (episode,) = episodes(1)
    inputs = episode.support.inputs.clone()
    inputs[0, 0] = torch.inf
    learner = build(name, curved().eval(), {})
    with pytest.raises(Diverged, match="Lower the setting 'learning_rate'"):
        learner.adapt(Support(inputs, episode.support.labels, 3))


@pytest.mark.parametrize("name", ["maml", "metasgd", "protomaml", "reptile"])
def test_training_does_not_go_on_with_what_is_no_number(name, curved, episodes):
    (episode,) = episodes(1)
    episode.support.inputs[0, 0] = torch.nan
    learner = build(name, curved().train(), {})
    with pytest.raises(Diverged, match="training_steps"):
        learner.episode_loss(episode)
    if learner.vmaps:
        with pytest.raises(Diverged):
            learner.vmapped_loss([episode, episode])


def test_weights_that_training_freezes_adapt_all_the_same(curved, episodes):
    (episode,) = episodes(1)
    learner = build("maml", curved().train(), {"learned_rates": True})
    plain = learner.episode_loss(episode)
    learner.backbone.requires_grad_(False)
    frozen = learner.episode_loss(episode)
    torch.testing.assert_close(frozen, plain)
    assert torch.autograd.grad(frozen, learner.rates.logs)[0].abs().sum() > 0


@every_weight_learner
def test_judging_takes_three_folds_at_most_and_only_of_small_sets(name, curved, episodes, monkeypatch):
    (episode,) = episodes(1, (6, 5))
    learner = build(name, curved().eval(), {"steps": 3})
    support = episode.support
    held_out = judge(learner, support.inputs, support.labels, support.way)
    assert (held_out.method, held_out.examples) == ("3-fold", 11)
    assert judge(learner, support.inputs[:2], torch.tensor([0, 1]), 2) is None
    two = learner.held_out_products(11, 4, 2, 2)
    monkeypatch.setattr("app.learners._weights._JUDGING", two)
    assert judge(learner, support.inputs, support.labels, support.way).method == "2-fold"
    monkeypatch.setattr("app.learners._weights._JUDGING", two - 1)
    assert judge(learner, support.inputs, support.labels, support.way) is None


def _pictured(options):
    backbone = build_backbone("conv4", {"filters": 8, "image_size": 16, **options})
    generator = torch.Generator().manual_seed(0)
    for one in backbone.parameters():
        if one.ndim > 1:
            one.data = torch.randn(one.shape, generator=generator) / one[0].numel() ** 0.5
    return backbone
