"""Gradients with respect to learnable settings and to embeddings, against finite differences in float64."""

import pytest
import torch

from app.core.episode import Episode, Support
from app.learners import build, learner_class

HEADS = ("logistic", "mahalanobis", "matching", "protonet", "ridge", "svm")
SETTINGS = {
    "logistic": {"regularisation": 0.3, "temperature": 1.5},
    "mahalanobis": {"regularisation": 0.15, "temperature": 3.0},
    "matching": {"temperature": 4.0},
    "protonet": {"temperature": 0.7, "relative": True},
    "ridge": {"regularisation": 0.8, "scale": 5.0},
    "svm": {"regularisation": 3.0, "scale": 4.0},
}
EACH = [(name, setting) for name in HEADS for setting in learner_class(name).learnable]

sets = pytest.mark.parametrize("shots", [(3, 3, 3), (5, 1, 2), (1, 1, 1, 1)], ids=str)
dims = pytest.mark.parametrize("dim", [4, 14])


@pytest.fixture(autouse=True)
def _fits_to_the_last_digit(monkeypatch):
    monkeypatch.setattr("app.learners.logistic._TIGHT", 1e-11)


def _episode(blobs, shots, dim):
    inputs, labels = blobs(shots, dim, distance=0.8)
    queries, truth = blobs(tuple(2 for _ in shots), dim, seed=1, distance=0.8)
    return Episode(Support(inputs.double(), labels, len(shots)), queries.double(), truth)


def _slope_by_differences(at, loss, direction, step):
    with torch.no_grad():
        at.add_(step * direction)
        above = float(loss())
        at.sub_(2 * step * direction)
        below = float(loss())
        at.add_(step * direction)
    return (above - below) / (2 * step)


@pytest.mark.parametrize(("name", "setting"), EACH)
@sets
@dims
def test_the_loss_has_the_slope_in_each_learnable_setting_that_finite_differences_give(
    name, setting, shots, dim, same, blobs
):
    learner, episode = build(name, same, SETTINGS[name]).train(), _episode(blobs, shots, dim)
    offset = learner.offsets[setting]
    (slope,) = torch.autograd.grad(learner.feature_loss(episode), offset)
    expected = _slope_by_differences(offset, lambda: learner.feature_loss(episode), torch.ones(()).double(), 1e-5)
    assert float(slope) == pytest.approx(expected, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("name", HEADS)
@sets
@dims
def test_the_loss_has_the_slope_in_the_embeddings_that_finite_differences_give(name, shots, dim, same, blobs):
    learner, episode = build(name, same, SETTINGS[name]).train(), _episode(blobs, shots, dim)
    inputs = episode.support.inputs.requires_grad_()
    (slope,) = torch.autograd.grad(learner.feature_loss(episode), inputs)
    direction = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    expected = _slope_by_differences(inputs, lambda: learner.feature_loss(episode), direction, 1e-6)
    assert float((slope * direction).sum()) == pytest.approx(expected, rel=1e-4, abs=1e-8)


@pytest.mark.parametrize("name", [name for name in HEADS if name != "matching"])
def test_embeddings_without_any_spread_have_a_finite_gradient(name, same):
    learner = build(name, same, SETTINGS[name]).train()
    inputs = torch.ones(6, 4, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    learner.feature_loss(Episode(Support(inputs, labels, 3), torch.ones(2, 4), labels[:2])).backward()
    assert bool(inputs.grad.isfinite().all())
    assert all(bool(one.grad.isfinite()) for one in learner.offsets.values())


@pytest.mark.parametrize(("name", "setting"), EACH)
def test_a_learned_setting_serves_as_the_same_setting_written_down(name, setting, same, blobs):
    features, labels = blobs((3, 2, 4), 6)
    trained = build(name, same, SETTINGS[name])
    with torch.no_grad():
        trained.offsets[setting].fill_(0.4)
    written = build(name, same, SETTINGS[name] | trained.learned_settings())
    assert trained.learned_settings()[setting] != SETTINGS[name][setting]
    scores = [one.score(one.fit(features, labels, 3), features) for one in (trained, written)]
    torch.testing.assert_close(*scores, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", HEADS)
def test_in_evaluation_mode_a_state_keeps_no_graph(name, same, blobs):
    features, labels = blobs((3, 2, 4), 6)
    learner = build(name, same, {})
    state = learner.fit(features, labels, 3)
    assert not any(one.requires_grad for one in state.values())
    assert not learner.score(state, features).requires_grad
