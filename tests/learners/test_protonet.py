"""Numbers worked by hand, and the careful distances."""

import pytest
import torch

from app.learners import build
from app.learners._distance import spread, squared_distances, unit_vectors

FEATURES = torch.tensor([[0.0, 0.0], [2.0, 0.0], [4.0, 4.0]])
LABELS = torch.tensor([0, 0, 1])


def test_logits_are_minus_the_squared_distances_to_the_class_means(same):
    learner = build("protonet", same, {})
    state = learner.fit(FEATURES, LABELS, 2)
    assert state["prototypes"].tolist() == [[1.0, 0.0], [4.0, 4.0]]
    # (1, 2): 0 + 4 from the first mean, 9 + 4 from the second.
    torch.testing.assert_close(learner.score(state, torch.tensor([[1.0, 2.0]])), torch.tensor([[-4.0, -13.0]]))


def test_the_temperature_multiplies_the_distances(same):
    learner = build("protonet", same, {"temperature": 0.5})
    state = learner.fit(FEATURES, LABELS, 2)
    torch.testing.assert_close(learner.score(state, torch.tensor([[1.0, 2.0]])), torch.tensor([[-2.0, -6.5]]))


def test_relative_distances_do_not_depend_on_the_scale_of_the_embeddings(same, blobs):
    features, labels = blobs((4, 4, 2), 7)
    learner = build("protonet", same, {"relative": True})
    plain = learner.score(learner.fit(features, labels, 3), features)
    larger = learner.score(learner.fit(1000 * features, labels, 3), 1000 * features)
    torch.testing.assert_close(larger, plain, rtol=1e-4, atol=1e-5)


def test_leaving_one_out_moves_its_mean_away(same):
    held_out = build("protonet", same, {}).leave_one_out(FEATURES, LABELS, 2)
    # (0, 0) without itself: its class's mean is (2, 0). The single example of class 1 leaves nothing.
    torch.testing.assert_close(held_out[0], torch.tensor([-4.0, -32.0]))
    torch.testing.assert_close(held_out[2], torch.tensor([-25.0, -torch.inf]))


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_distances_far_from_the_origin_equal_those_in_float64(offset, blobs):
    rows, _ = blobs((5, 5), 6)
    means, _ = blobs((1, 1, 1), 6, seed=1)
    rows, means = rows + offset, means + offset
    expected = torch.cdist(rows.double(), means.double()).square()
    torch.testing.assert_close(squared_distances(rows, means).double(), expected, rtol=1e-4, atol=1e-4)


def test_distance_to_a_mean_at_the_origin_is_the_squared_length():
    assert squared_distances(torch.tensor([[3.0, 4.0]]), torch.zeros(2, 2)).tolist() == [[25.0, 25.0]]


def test_the_spread_of_like_examples_is_their_largest_coordinate():
    assert float(spread(torch.full((3, 2), 4.0))) == 4.0
    assert float(spread(torch.zeros(3, 2))) == 1.0
    assert float(spread(torch.tensor([[0.0], [2.0]]))) == 1.0


def test_a_row_of_zeros_stays_zero_when_normalised():
    rows = unit_vectors(torch.tensor([[0.0, 0.0], [3e-30, 4e-30], [3e30, 4e30]]))
    torch.testing.assert_close(rows, torch.tensor([[0.0, 0.0], [0.6, 0.8], [0.6, 0.8]]))


@pytest.mark.parametrize(("way", "dim"), [(5, 64), (5, 1280), (20, 2000)])
@pytest.mark.parametrize("far", [1.0, 1e3])
def test_distances_of_a_query_are_the_same_alone_and_among_many(way, dim, far):
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(700, dim, generator=generator) + far
    prototypes = torch.randn(way, dim, generator=generator) + far
    together = squared_distances(queries, prototypes)
    for row in (0, 3, 699):
        torch.testing.assert_close(
            squared_distances(queries[row : row + 1], prototypes)[0], together[row], rtol=2e-6, atol=1e-3
        )
    exact = (queries.double()[:, None] - prototypes.double()).square().sum(2)
    torch.testing.assert_close(together.double(), exact, rtol=1e-3, atol=1e-3)
