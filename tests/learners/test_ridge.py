"""Numbers worked by hand, and both sides of Woodbury's identity."""

import torch

from app.learners import build
from app.learners._distance import groups_by_shot
from app.learners.ridge import _weights


def test_two_examples_by_hand(same):
    # Mean (0, 0), spread 1, so z = (1, 0), (-1, 0) and targets +-1/2. One weight a class on the first axis:
    # minimise (w - 1/2)^2 + (-w + 1/2)^2 + 2 w^2, so w = 1 / 4; scaled by 10, at x = (1, 5): 2.5 and -2.5.
    learner = build("ridge", same, {"regularisation": 2.0, "scale": 10.0})
    state = learner.fit(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([0, 1]), 2)
    torch.testing.assert_close(state["weights"], torch.tensor([[0.25, -0.25], [0.0, 0.0]]))
    torch.testing.assert_close(learner.score(state, torch.tensor([[1.0, 5.0]])), torch.tensor([[2.5, -2.5]]))


def test_both_forms_of_the_solution_agree(blobs):
    rows, labels = blobs((4, 2, 3), 8)
    rows = rows.double()
    means = torch.stack([rows[labels == c].mean(0) for c in range(3)])
    rows = rows - means.mean(0)
    noise = torch.tensor([0.4, 0.2, 0.3], dtype=torch.float64)
    # Nine rows of eight columns take the primal form; two more columns of zeros make it the dual.
    wide = torch.cat([rows, torch.zeros(9, 2, dtype=torch.float64)], dim=1)
    torch.testing.assert_close(_weights(wide, labels, noise)[:8], _weights(rows, labels, noise))


def test_fitted_values_equal_a_weighted_least_squares_solution(same, blobs):
    features, labels = blobs((6, 2), 3)
    learner = build("ridge", same, {"regularisation": 0.7, "scale": 1.0})
    state = learner.fit(features, labels, 2)
    rows = torch.cat([features.double() / state["unit"].double(), torch.ones(8, 1).double()], dim=1)
    weight = torch.where(labels == 0, 4 / 6, 4 / 2).double()[:, None]
    penalty = 0.7 * torch.eye(4, dtype=torch.float64)
    penalty[3, 3] = 0
    targets = torch.nn.functional.one_hot(labels, 2).double()
    solution = torch.linalg.solve(rows.T @ (weight * rows) + penalty, rows.T @ (weight * targets))
    expected = rows @ solution - 0.5
    torch.testing.assert_close(learner.score(state, features).double(), expected, rtol=1e-5, atol=1e-5)


def test_the_scale_and_the_origin_of_the_embeddings_are_no_matter(same, blobs):
    features, labels = blobs((4, 3), 5)
    learner = build("ridge", same, {})
    plain = learner.score(learner.fit(features, labels, 2), features)
    moved = 50 * features - 7
    torch.testing.assert_close(learner.score(learner.fit(moved, labels, 2), moved), plain, rtol=1e-4, atol=1e-4)


def test_groups_hold_each_row_once_by_class():
    labels = torch.tensor([2, 0, 1, 0, 2])
    assert [group.tolist() for group in groups_by_shot(labels, 3)] == [[[2]], [[1, 3], [0, 4]]]
