"""The optimum against other solvers, its certificate, its gradient, and what large sets do."""

import numpy as np
import pytest
import torch
from proxsuite.torch.qplayer import QPFunction
from sklearn.svm import LinearSVC

from app.core.errors import DeadlinePassed
from app.core.heartbeat import beating
from app.learners import _qp_large as large
from app.learners import build
from app.learners import svm as module
from app.learners._base import one_hot
from app.learners._qp import SimplexQP


def _rows_as_fitted(learner, state, features):
    return features.double() / state["unit"].double() - state["centre"].double()


def _objective(weights, rows, labels, costs, regularisation):
    scores = rows @ weights
    own = scores.gather(1, labels[:, None])
    worst = (scores - own + 1 - torch.nn.functional.one_hot(labels, weights.shape[1])).amax(1)
    return float(regularisation / 2 * weights.square().sum() + (costs * worst).sum())


def test_two_examples_by_hand(same):
    # z = (1, 0), (-1, 0), and w_1 = -w_0 by symmetry, so the margin is 2 w on the first axis. Minimise
    # 8 / 2 * 2 w^2 + 2 max(0, 1 - 2 w): 16 w = 4, so w = 1 / 4; scaled by 10, at x = (1, 5): 2.5 and -2.5.
    examples, labels = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([0, 1])
    soft = build("svm", same, {"regularisation": 8.0, "scale": 10.0})
    state = soft.fit(examples, labels, 2)
    torch.testing.assert_close(state["weights"], torch.tensor([[0.25, -0.25], [0.0, 0.0]]))
    torch.testing.assert_close(soft.score(state, torch.tensor([[1.0, 5.0]])), torch.tensor([[2.5, -2.5]]))
    # With a penalty under 2 the whole margin of one is taken: w = 1 / 2.
    hard = build("svm", same, {"regularisation": 0.5})
    torch.testing.assert_close(hard.fit(examples, labels, 2)["weights"], torch.tensor([[0.5, -0.5], [0.0, 0.0]]))


@pytest.mark.parametrize("shots", [(8, 8, 8), (12, 3, 5), (1, 1, 1, 1)], ids=str)
@pytest.mark.parametrize("dim", [4, 30])
@pytest.mark.parametrize("regularisation", [0.1, 1.0, 10.0])
def test_the_optimum_is_scikit_learns(shots, dim, regularisation, same, blobs):
    features, labels = blobs(shots, dim, distance=0.7)
    learner = build("svm", same, {"regularisation": regularisation, "scale": 1.0})
    state = learner.fit(features.double(), labels, len(shots))
    rows = _rows_as_fitted(learner, state, features)
    shares = {label: len(labels) / len(shots) / shot for label, shot in enumerate(shots)}
    theirs = LinearSVC(
        multi_class="crammer_singer",
        fit_intercept=False,
        C=1 / regularisation,
        class_weight=shares,
        tol=1e-7,
        max_iter=10**7,
        random_state=0,
    ).fit(rows.numpy(), labels)
    np.testing.assert_allclose(state["weights"].T.numpy(), theirs.coef_, atol=1e-4)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("regularisation", [1e-4, 0.03, 1.0, 30.0, 1e4])
def test_no_duality_gap_is_left(seed, regularisation, blobs):
    features, labels = blobs((6, 1, 9, 3), 5, seed=seed, distance=1.0)
    rows = features.double() - features.double().mean(0)
    costs = torch.tensor([0.8, 2.0, 0.5, 1.5], dtype=torch.float64)[labels]
    targets = one_hot(labels, 4, rows)
    weighed = costs[:, None] * rows
    shares = SimplexQP((weighed @ weighed.T / regularisation)[None], costs[None], targets).solve().shares[0]
    assert float(shares.min()) >= 0
    torch.testing.assert_close(shares.sum(1), torch.ones(19).double())
    weights = weighed.T @ (targets - shares) / regularisation
    primal = _objective(weights, rows, labels, costs, regularisation)
    dual = float((costs * (1 - (shares * targets).sum(1))).sum() - regularisation / 2 * weights.square().sum())
    assert abs(primal - dual) <= 1e-10 * float(costs.sum())


def test_optimum_and_gradient_are_those_of_proxsuites_qp_layer(same, blobs):
    features, labels = blobs((4, 2, 3), 6, distance=0.5)
    features = features.double()
    learner = build("svm", same, {"regularisation": 2.0}).train()
    outer = torch.randn(6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ours_in, theirs_in = features.clone().requires_grad_(), features.clone().requires_grad_()
    ours = learner.fit(ours_in, labels, 3)["weights"]

    unit = module.spread(theirs_in)
    means, shots = module.class_means(theirs_in / unit, labels, 3)
    rows = theirs_in / unit - means.mean(0)
    costs, targets = (3 / shots[:, 0])[labels], one_hot(labels, 3, rows)
    weighed = costs[:, None] * rows
    gram, one = weighed @ weighed.T / 2.0, torch.eye(27, dtype=torch.float64)
    shares, _, _ = QPFunction(eps=1e-10, maxIter=10_000, omp_parallel=False)(
        torch.kron(gram, torch.eye(3, dtype=torch.float64)),
        (costs[:, None] * targets - gram @ targets).flatten(),
        torch.kron(torch.eye(9, dtype=torch.float64), torch.ones(1, 3, dtype=torch.float64)),
        torch.ones(9, dtype=torch.float64),
        one,
        torch.zeros(27, dtype=torch.float64),
        torch.full((27,), 1e20, dtype=torch.float64),
    )
    theirs = weighed.T @ (targets - shares.view(9, 3)) / 2.0
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    (ours_slope,) = torch.autograd.grad((ours * outer).sum(), ours_in)
    (theirs_slope,) = torch.autograd.grad((theirs * outer).sum(), theirs_in)
    torch.testing.assert_close(ours_slope, theirs_slope, rtol=1e-3, atol=1e-4)


def test_little_regularisation_keeps_every_separable_example_at_margin_one(same, blobs):
    features, labels = blobs((4, 4, 4), 40)
    learner = build("svm", same, {"regularisation": 1e-3, "scale": 1.0})
    scores = learner.score(learner.fit(features, labels, 3), features)
    margins = scores.gather(1, labels[:, None]) - scores + 2 * torch.nn.functional.one_hot(labels, 3)
    assert float(margins.min()) == pytest.approx(1, abs=1e-4)


def test_the_scale_and_the_origin_of_the_embeddings_are_no_matter(same, blobs):
    features, labels = blobs((4, 3), 5)
    learner = build("svm", same, {})
    plain = learner.score(learner.fit(features, labels, 2), features)
    moved = 50 * features - 7
    torch.testing.assert_close(learner.score(learner.fit(moved, labels, 2), moved), plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["repeated", "constant", "contradicting"])
def test_odd_training_sets_have_a_finite_gradient(kind, same, blobs):
    features, labels = blobs((3, 3, 2), 5)
    if kind == "repeated":
        features = features[[0, 0, 1, 1, 4, 4, 6, 6]]
    elif kind == "constant":
        features = torch.ones_like(features)
    else:
        features = features[:1].expand_as(features) + torch.tensor([0.0, 1.0])[labels.clamp_max(1)][:, None]
    features = features.clone().requires_grad_()
    learner = build("svm", same, {}).train()
    loss = torch.nn.functional.cross_entropy(learner.score(learner.fit(features, labels, 3), features), labels)
    loss.backward()
    assert bool(features.grad.isfinite().all())
    assert all(bool(offset.grad.isfinite()) for offset in learner.offsets.values())


@pytest.mark.parametrize(("shots", "dim"), [((20, 8, 8, 15), 6), ((6, 6, 6, 6), 40)], ids=str)
def test_a_large_set_is_fitted_near_the_optimum(shots, dim, same, blobs, monkeypatch):
    features, labels = blobs(shots, dim, distance=0.7)
    learner = build("svm", same, {})
    exact = learner.fit(features, labels, 4)
    monkeypatch.setattr(module, "_EXACT_BELOW", 0)
    near = learner.fit(features, labels, 4)
    rows = _rows_as_fitted(learner, exact, features)
    costs = (len(labels) / 4 / torch.tensor(shots).double())[labels]
    least, reached = (_objective(one["weights"].double(), rows, labels, costs, 1.0) for one in (exact, near))
    assert least <= reached * (1 + 1e-6)
    assert reached <= least * (1 + 2 * large.NEAR)
    torch.testing.assert_close(learner.score(near, features), learner.score(exact, features), rtol=0.02, atol=0.02)


def test_training_on_a_large_set_stays_exact(same, blobs, monkeypatch):
    features, labels = blobs((5, 5), 6)
    learner = build("svm", same, {}).train()
    exact = learner.fit(features, labels, 2)["weights"]
    monkeypatch.setattr(module, "_EXACT_BELOW", 0)
    torch.testing.assert_close(learner.fit(features, labels, 2)["weights"], exact, rtol=0, atol=0)


def test_a_large_fit_beats_and_ends_where_nobody_waits_for_it(same, blobs, monkeypatch):
    monkeypatch.setattr(module, "_EXACT_BELOW", 0)
    features, labels = blobs((9, 9, 9), 5, distance=0.3)
    learner = build("svm", same, {"regularisation": 0.01})
    beats = []
    with beating(lambda: beats.append(1)):
        learner.fit(features, labels, 3)
    assert len(beats) > 1

    def late():
        raise DeadlinePassed("Too late.")

    with beating(late), pytest.raises(DeadlinePassed):
        learner.fit(features, labels, 3)


def test_a_set_beyond_all_limits_is_refused_with_the_number(same, blobs, monkeypatch):
    monkeypatch.setattr(module, "_MOST_VARIABLES", 20)
    features, labels = blobs((5, 5, 5), 4)
    with pytest.raises(module.TooManyMargins, match="15 examples of 3 labels are 45") as caught:
        build("svm", same, {}).fit(features, labels, 3)
    assert caught.value.faults[0].pointer == "/support"


def test_cross_validating_fold_by_fold_gives_the_same_as_all_at_once(same, blobs, monkeypatch):
    features, labels = blobs((5, 4, 3), 6)
    learner = build("svm", same, {})
    folds = torch.arange(12) % 3
    unit = module.spread(features)
    monkeypatch.setattr(module, "spread", lambda _: unit)
    at_once = learner.cross_validate(features, labels, 3, folds)
    monkeypatch.setattr(module, "_EXACT_BELOW", 3 * 12**3 - 1)
    torch.testing.assert_close(learner.cross_validate(features, labels, 3, folds), at_once, rtol=1e-4, atol=1e-4)


def test_the_projection_onto_the_simplex_is_the_nearest_point():
    points = 2 * torch.randn(50, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = large.onto_simplex(points)
    assert float(found.min()) >= 0
    torch.testing.assert_close(found.sum(1), torch.ones(50).double())
    # Nearest: no corner of the simplex lies on the far side of the plane through `found` that faces `points`.
    towards = points - found
    assert bool((towards.amax(1) <= (towards * found).sum(1) + 1e-12).all())
