"""The minimum, against scikit-learn's, and how the fit gets there."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from app.core.episode import Episode, Support
from app.learners import _softmax_fit, build
from app.learners import logistic as module


def test_drawn_to_zero_it_is_scikit_learns_logistic_regression(same, blobs):
    features, labels = blobs((8, 8, 8, 8), 6, distance=1.0)
    regularisation = 0.5
    learner = build("logistic", same, {"temperature": 0.0, "regularisation": regularisation})
    state = learner.fit(features, labels, 4)
    rows = features.double() / state["unit"].double()
    theirs = LogisticRegression(C=1 / regularisation, tol=1e-10, max_iter=10_000).fit(rows.numpy(), labels)
    expected = theirs.predict_log_proba(rows.numpy())
    ours = learner.score(state, features).log_softmax(-1)
    np.testing.assert_allclose(ours.numpy(), expected, atol=2e-5)


def test_unbalanced_classes_weigh_the_same_as_in_scikit_learns_balanced_mode(same, blobs):
    features, labels = blobs((12, 3, 5), 30, distance=0.7)
    learner = build("logistic", same, {"temperature": 0.0, "regularisation": 0.2})
    state = learner.fit(features, labels, 3)
    rows = features.double() / state["unit"].double()
    settings = {"C": 5.0, "class_weight": "balanced", "tol": 1e-10, "max_iter": 10_000}
    theirs = LogisticRegression(**settings).fit(rows.numpy(), labels)
    ours = learner.score(state, features).log_softmax(-1)
    np.testing.assert_allclose(ours.numpy(), theirs.predict_log_proba(rows.numpy()), atol=2e-5)


def test_a_strong_pull_leaves_the_prototypes_scores(same, blobs):
    features, labels = blobs((5, 5), 8)
    heads = [
        build("logistic", same, {"temperature": 3.0, "regularisation": 1e6}),
        build("protonet", same, {"temperature": 3.0, "relative": True}),
    ]
    # The free intercept moves; so compare what it cannot change, how the scores differ between queries.
    scores = [head.score(head.fit(features, labels, 2), features) for head in heads]
    gaps = [score[:, 0] - score[:, 1] for score in scores]
    torch.testing.assert_close(gaps[0] - gaps[0].mean(), gaps[1] - gaps[1].mean(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dim", [4, 60])
def test_float32_finds_the_same_head_as_float64(dim, same, blobs, monkeypatch):
    features, labels = blobs((6, 6, 6), dim)
    learner = build("logistic", same, {})
    exact = learner.score(learner.fit(features, labels, 3), features)
    monkeypatch.setattr(module, "_EXACT_BELOW", 0)
    torch.testing.assert_close(learner.score(learner.fit(features, labels, 3), features), exact, rtol=1e-2, atol=1e-2)


def test_it_fits_in_the_span_of_few_examples_what_it_fits_in_the_whole_space(same, blobs):
    features, labels = blobs((3, 3), 6)
    learner = build("logistic", same, {})
    narrow = learner.score(learner.fit(features, labels, 2), features)
    # More rows than columns leaves the space as it is; a seventh column of zeros makes it fit in the span.
    wide = torch.cat([features, torch.zeros(6, 1)], dim=1)
    torch.testing.assert_close(learner.score(learner.fit(wide, labels, 2), wide), narrow, rtol=1e-4, atol=1e-4)
    five = features[:, :5]
    spanned = torch.cat([five, torch.zeros(6, 1)], dim=1)
    expected = learner.score(learner.fit(five, labels, 2), five)
    torch.testing.assert_close(learner.score(learner.fit(spanned, labels, 2), spanned), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("directly", [True, False])
@pytest.mark.parametrize(("shots", "temperature"), [((1,) * 5, 6.0), ((5,) * 5, 6.0), ((1, 1), 1000.0)], ids=str)
def test_a_set_told_apart_with_certainty_has_a_finite_gradient(directly, shots, temperature, same, blobs, monkeypatch):
    if not directly:
        monkeypatch.setattr(_softmax_fit, "_DIRECT", 0)
    features, labels = blobs(shots, 64, distance=3.0)
    queries, truth = blobs(shots, 64, seed=1, distance=3.0)
    inputs = features.requires_grad_()
    learner = build("logistic", same, {"temperature": temperature, "regularisation": 0.001}).train()
    learner.feature_loss(Episode(Support(inputs, labels, len(shots)), queries, truth)).backward()
    assert bool(inputs.grad.isfinite().all())
    assert all(bool(one.grad.isfinite()) for one in learner.offsets.values())


@pytest.mark.parametrize("dim", [3, 20])
def test_factored_or_by_conjugate_gradients_the_gradient_is_the_same(dim, same, blobs, monkeypatch):
    features, labels = blobs((4, 2, 3), dim, distance=0.7)
    learner = build("logistic", same, {}).train()
    inputs = features.double().requires_grad_()
    episode = Episode(Support(inputs, labels, 3), features.double(), labels)
    slopes = []
    for most in (_softmax_fit._DIRECT, 0):
        monkeypatch.setattr(_softmax_fit, "_DIRECT", most)
        slopes.append(torch.autograd.grad(learner.feature_loss(episode), [inputs, *learner.offsets.values()]))
    for one, other in zip(*slopes, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)
