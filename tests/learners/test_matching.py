"""Numbers worked by hand."""

import math

import pytest
import torch

from app.learners import build


def test_logits_are_the_log_of_the_attention_on_each_class(same):
    learner = build("matching", same, {"temperature": 2.0})
    state = learner.fit(torch.tensor([[3.0, 0.0], [0.0, 0.5]]), torch.tensor([0, 1]), 2)
    # Cosines 0.6 and 0.8: attention e^1.2 and e^1.6 over their sum.
    total = math.exp(1.2) + math.exp(1.6)
    expected = torch.tensor([[math.log(math.exp(1.2) / total), math.log(math.exp(1.6) / total)]])
    torch.testing.assert_close(learner.score(state, torch.tensor([[3.0, 4.0]])), expected)


def test_a_label_with_more_examples_is_not_favoured(same):
    learner = build("matching", same, {})
    features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    state = learner.fit(features, torch.tensor([0, 0, 0, 1]), 2)
    probabilities = learner.score(state, torch.tensor([[1.0, 1.0]])).softmax(-1)
    torch.testing.assert_close(probabilities, torch.tensor([[0.5, 0.5]]))


def test_balanced_classes_share_the_attention_as_in_the_paper(same, blobs):
    features, labels = blobs((3, 3), 4)
    queries, _ = blobs((2, 2), 4, seed=1)
    learner = build("matching", same, {"temperature": 1.0})
    logits = learner.score(learner.fit(features, labels, 2), queries)
    attention = torch.nn.functional.cosine_similarity(queries[:, None], features[None], dim=2).softmax(1)
    expected = torch.stack([attention[:, labels == c].sum(1) for c in range(2)], dim=1)
    torch.testing.assert_close(logits.exp(), expected)


@pytest.mark.parametrize("temperature", [1e-3, 1e4])
def test_extreme_temperatures_give_finite_logits(temperature, same, blobs):
    features, labels = blobs((3, 1, 2), 4)
    learner = build("matching", same, {"temperature": temperature})
    assert bool(learner.score(learner.fit(features, labels, 3), features).isfinite().all())
