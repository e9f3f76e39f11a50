"""The formulas of the paper written out with whole matrices, the limits, and what is stored."""

import pytest
import torch

from app.core.episode import Episode, Support
from app.learners import build


def _paper(features, labels, way, queries, regularisation, temperature):
    """Logits by the paper's matrices, in float64, with regularisation u^2 I for its I, and Q_k over that."""
    x, z = features.double(), queries.double()
    unit = float((x - x.mean(0)).square().sum(1).mean().sqrt())
    x, z, one = x / unit, z / unit, torch.eye(x.shape[1], dtype=torch.float64)

    def covariance(rows):
        apart = rows - rows.mean(0)
        return apart.T @ apart / max(1, len(rows) - 1)

    logits = []
    for k in range(way):
        own = x[labels == k]
        mix = len(own) / (len(own) + 1)
        metric = mix * covariance(own) + (1 - mix) * covariance(x) + regularisation * one
        apart = z - own.mean(0)
        logits.append(-temperature * regularisation * (apart @ metric.inverse() * apart).sum(1))
    return torch.stack(logits, dim=1)


@pytest.mark.parametrize("shots", [(5, 5, 5), (1, 6, 2, 3), (1, 1, 1), (40, 30)], ids=str)
@pytest.mark.parametrize("dim", [1, 4, 50])
@pytest.mark.parametrize("regularisation", [0.01, 0.1, 3.0])
def test_the_logits_are_the_papers_but_for_what_all_labels_share(shots, dim, regularisation, same, blobs):
    features, labels = blobs(shots, dim)
    queries, _ = blobs((4, 4), dim, seed=1)
    learner = build("mahalanobis", same, {"regularisation": regularisation, "temperature": 2.0})
    features, queries = features.double(), queries.double()
    ours = learner.score(learner.fit(features, labels, len(shots)), queries)
    expected = _paper(features, labels, len(shots), queries, regularisation, 2.0)
    torch.testing.assert_close(ours.log_softmax(1), expected.log_softmax(1), rtol=1e-7, atol=1e-7)


def test_four_examples_by_hand(same):
    # Classes at -2, 0 and at 4, 6 on a line: means -1 and 5, class variances 2, centre 2, spread u^2 = 10.
    # The set's variance is 40 / 3 and l = 2 / 3, so Q = 1 + (2 / 3 * 2 + 1 / 3 * 40 / 3) / (0.1 * 10) = 61 / 9.
    # 1 lies 2 and 4 from the means, in u^2 4 / 10 and 16 / 10.
    learner = build("mahalanobis", same, {"regularisation": 0.1, "temperature": 1.0})
    state = learner.fit(torch.tensor([[-2.0], [0.0], [4.0], [6.0]]), torch.tensor([0, 0, 1, 1]), 2)
    expected = -torch.tensor([[4.0, 16.0]]) / 10 / (61 / 9)
    torch.testing.assert_close(learner.score(state, torch.tensor([[1.0]])), expected)


def test_strong_regularisation_leaves_the_prototypes_distances(same, blobs):
    features, labels = blobs((5, 2, 3), 20)
    ours = build("mahalanobis", same, {"regularisation": 1e6, "temperature": 3.0})
    plain = build("protonet", same, {"temperature": 3.0, "relative": True})
    scores = [one.score(one.fit(features, labels, 3), features).log_softmax(1) for one in (ours, plain)]
    torch.testing.assert_close(*scores, rtol=1e-4, atol=1e-4)


def test_a_wide_class_reaches_farther_than_a_narrow_one(same):
    narrow = torch.tensor([[-1.0, 0.0], [-1.1, 0.1], [-0.9, -0.1], [-1.0, 0.1]])
    wide = torch.tensor([[3.0, 0.0], [1.0, 0.1], [5.0, -0.1], [3.0, 0.1]])
    features, labels = torch.cat([narrow, wide]), torch.tensor([0] * 4 + [1] * 4)
    query = torch.tensor([[0.6, 0.0]])
    plain = build("protonet", same, {})
    ours = build("mahalanobis", same, {"regularisation": 0.01})
    assert int(plain.score(plain.fit(features, labels, 2), query).argmax()) == 0
    assert int(ours.score(ours.fit(features, labels, 2), query).argmax()) == 1


def test_the_scale_and_the_origin_of_the_embeddings_are_no_matter(same, blobs):
    features, labels = blobs((4, 3), 5)
    learner = build("mahalanobis", same, {})
    plain = learner.score(learner.fit(features, labels, 2), features)
    moved = 50 * features - 7
    scores = learner.score(learner.fit(moved, labels, 2), moved)
    torch.testing.assert_close(scores.log_softmax(1), plain.log_softmax(1), rtol=1e-3, atol=1e-3)


def test_float32_serves_what_float64_would(same, blobs):
    features, labels = blobs((5,) * 10, 1280, distance=0.3)
    queries, _ = blobs((5,) * 10, 1280, seed=1, distance=0.3)
    learner = build("mahalanobis", same, {"regularisation": 1e-3})
    exact = learner.score(learner.fit(features.double(), labels, 10), queries.double())
    torch.testing.assert_close(
        learner.score(learner.fit(features, labels, 10), queries).double().softmax(1),
        exact.softmax(1),
        rtol=1e-3,
        atol=1e-3,
    )


def test_ten_labels_of_1280_numbers_take_no_square_matrices(same, blobs):
    features, labels = blobs((5,) * 10, 1280)
    state = build("mahalanobis", same, {}).fit(features, labels, 10)
    assert sum(one.numel() for one in state.values()) < 1280 * 50 + 1280 + 50 * (50 + 20) + 100


@pytest.mark.parametrize("dim", [3, 12])
def test_repeated_examples_have_the_gradient_that_finite_differences_give(dim, same, blobs):
    features, labels = blobs((4, 4, 2), dim)
    order = labels.argsort(stable=True)[[0, 0, 0, 1, 4, 4, 5, 5, 8, 8]]
    inputs, labels = features.double()[order].requires_grad_(), labels[order]
    queries, truth = blobs((2, 2, 2), dim, seed=1)
    learner = build("mahalanobis", same, {}).train()

    def loss(at):
        return learner.feature_loss(Episode(Support(at, labels, 3), queries.double(), truth))

    (slope,) = torch.autograd.grad(loss(inputs), inputs)
    direction = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.no_grad():
        expected = float(loss(inputs + 1e-6 * direction) - loss(inputs - 1e-6 * direction)) / 2e-6
    assert float((slope * direction).sum()) == pytest.approx(expected, rel=1e-4, abs=1e-7)
