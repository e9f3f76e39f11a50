"""Adaptations side by side: the answers of one after the other."""

import pytest
import torch

from app.backbones import build as build_backbone
from app.core.episode import Support
from app.learners import build
from app.learners._inner_loop import Diverged
from app.learners._select import judge
from app.learners._together import adapt_together, judge_together

side_by_side = pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("maml", {}),
        ("maml", {"head_units": "support", "learned_rates": True, "steps": 3}),
        ("maml", {"head": "fixed", "head_way": 3}),
        ("metasgd", {}),
        ("protomaml", {}),
    ],
)


def _close(found, expected) -> None:
    assert set(found) == set(expected)
    for key, one in expected.items():
        torch.testing.assert_close(found[key], one, rtol=1e-6, atol=1e-8)
        assert found[key].is_contiguous()


@side_by_side
@pytest.mark.parametrize("frozen", [True, False])
def test_together_each_task_gets_the_state_that_it_gets_alone(name, settings, frozen, curved, episodes):
    backbone = curved().eval().requires_grad_(not frozen)
    learner = build(name, backbone, settings).double().eval()
    supports = [one.support for one in episodes(5, (3, 3, 3))]
    states = adapt_together(learner, supports)
    for state, support in zip(states, supports, strict=True):
        _close(state, learner.adapt(support))


@side_by_side
def test_together_each_task_is_judged_as_it_is_alone(name, settings, curved, episodes):
    learner = build(name, curved().eval(), settings).double().eval()
    supports = [one.support for one in episodes(4, (3, 3, 3))]
    found = judge_together(learner, supports)
    expected = [judge(learner, one.inputs, one.labels, one.way) for one in supports]
    assert None not in expected
    for one, other in zip(found, expected, strict=True):
        assert (one.method, one.accuracy, one.examples) == (other.method, other.accuracy, other.examples)
        assert one.log_loss == pytest.approx(other.log_loss, rel=1e-4)


def test_images_through_convolutions_too(episodes):
    backbone = build_backbone("conv4", {"filters": 8}).eval()
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat_interleave(2)
    supports = [
        Support(torch.randint(0, 256, (6, 1, 28, 28), generator=generator, dtype=torch.uint8), labels, 3)
        for _ in range(3)
    ]
    learner = build("maml", backbone, {"steps": 2}).eval()
    for state, support in zip(adapt_together(learner, supports), supports, strict=True):
        for key, one in learner.adapt(support).items():
            torch.testing.assert_close(state[key], one, rtol=1e-4, atol=1e-5)


def test_a_task_that_diverges_harms_no_other(curved, episodes):
    learner = build("maml", curved().eval(), {"learning_rate": 1.0}).eval()
    good, bad = (one.support for one in episodes(2, (2, 2, 2)))
    bad = Support(torch.full_like(bad.inputs, torch.inf), bad.labels, bad.way)
    first, second, third = adapt_together(learner, [good, bad, good])
    assert isinstance(second, Diverged)
    assert second.faults[0].pointer == "/learning_rate"
    _close(first, learner.adapt(good))
    _close(third, first)
    held_out, none = judge_together(learner, [good, bad])
    assert held_out.log_loss == pytest.approx(judge(learner, good.inputs, good.labels, good.way).log_loss)
    assert none is None


def test_a_set_too_small_to_be_judged_alone_is_not_judged_together(curved, episodes):
    learner = build("maml", curved().eval(), {}).eval()
    assert judge_together(learner, [one.support for one in episodes(2)]) == [None, None]


def test_more_tasks_than_fit_at_once_take_turns(curved, episodes, monkeypatch):
    learner = build("maml", curved().eval(), {}).eval()
    rows = []
    embed = learner.embed
    monkeypatch.setattr(learner.backbone, "micro_batch_examples", lambda _: 12)
    monkeypatch.setattr(learner, "embed", lambda weights, inputs: rows.append(len(inputs)) or embed(weights, inputs))
    supports = [one.support for one in episodes(5, (2, 2, 2))]
    states = adapt_together(learner, supports)
    passes = len(rows)
    assert set(rows) == {6}
    adapt_together(learner, supports[:2])
    assert passes == 3 * (len(rows) - passes)
    for state, support in zip(states, supports, strict=True):
        _close(state, learner.adapt(support))


def test_what_cannot_run_side_by_side_is_refused(curved, episodes):
    supports = [one.support for one in episodes(2, (2, 2))]
    with pytest.raises(ValueError, match="Reptile adapts alone"):
        adapt_together(build("reptile", curved().eval(), {}).eval(), supports)
    learner = build("maml", curved().eval(), {})
    with pytest.raises(ValueError, match="adapts alone"):
        adapt_together(learner.train(), supports)
    other = episodes(1, (3, 2))[0].support
    with pytest.raises(ValueError, match="one shape"):
        adapt_together(learner.eval(), [supports[0], other])
    uneven = Support(supports[0].inputs, torch.tensor([0, 0, 0, 1]), 2)
    with pytest.raises(ValueError, match="same shots"):
        judge_together(learner.eval(), [supports[0], uneven])
