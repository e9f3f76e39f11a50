"""Many tasks scored in one call: each task's logits are those that it gets alone, up to float rounding."""

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch

from app.learners import build, learner_class, learner_names
from app.learners._base import EmbeddingLearner, EmbeddingSettings

EMBEDDING = [name for name in learner_names() if issubclass(learner_class(name), EmbeddingLearner)]
OPTIONS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in EMBEDDING),
    *((name, {"normalise": True}) for name in EMBEDDING),
    ("protonet", {"relative": True, "temperature": 10.0}),
    ("anil", {"head": "prototypes"}),
]
every_learner = pytest.mark.parametrize(("name", "options"), OPTIONS, ids=str)

TOLERANCE = {"rtol": 2e-5, "atol": 2e-5}
"""Of a logit in float32. Sums over the embedding may be taken in another order."""


def fitted(learner, blobs, shots, dim, tasks, scale=lambda task: 1.0):
    """States of tasks of equal shapes, and as many queries for each as its set has examples."""
    states, queries = [], []
    for task in range(tasks):
        inputs, labels = blobs(shots, dim, seed=task)
        states.append(learner.fit(scale(task) * inputs, labels, len(shots)))
        queries.append(scale(task) * blobs(shots, dim, seed=task + 100)[0])
    return states, torch.stack(queries)


def one_by_one(learner, states, queries):
    return torch.stack([learner.score(state, own) for state, own in zip(states, queries, strict=True)])


@every_learner
@pytest.mark.parametrize(
    ("shots", "dim"),
    [((1, 1), 1), ((5, 5, 5), 64), ((1, 4, 2, 7), 30), ((20, 3), 5), ((2,) * 12, 900)],
    ids=["least", "usual", "uneven", "more examples than numbers", "large"],
)
@torch.no_grad()
def test_each_task_gets_the_logits_that_it_gets_alone(name, options, shots, dim, same, blobs):
    learner = build(name, same, options).eval()
    states, queries = fitted(learner, blobs, shots, dim, tasks=6)
    found = learner.score_each(states, queries)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, one_by_one(learner, states, queries), **TOLERANCE)
    for rows in (1, 2):
        torch.testing.assert_close(learner.score_each(states, queries[:, :rows]), found[:, :rows], **TOLERANCE)


@every_learner
@pytest.mark.parametrize("dim", [8, 3000])
@torch.no_grad()
def test_a_task_of_absurd_numbers_does_not_touch_its_mates(name, options, dim, same, blobs):
    learner = build(name, same, options).eval()
    states, queries = fitted(learner, blobs, (3, 1, 4), dim, 3, scale=lambda task: (1.0, 1e25, 1e-20)[task])
    found = learner.score_each(states, queries)
    torch.testing.assert_close(found, one_by_one(learner, states, queries), **TOLERANCE)
    assert bool(found.isfinite().all())


@pytest.mark.parametrize("dim", [64, 3000])
@torch.no_grad()
def test_distances_to_few_prototypes_lose_nothing_by_company(dim, same, blobs):
    learner = build("protonet", same, {}).eval()
    states, queries = fitted(learner, blobs, (3, 3), dim, tasks=5)
    assert torch.equal(learner.score_each(states, queries), one_by_one(learner, states, queries))


@pytest.mark.parametrize("name", EMBEDDING)
@torch.no_grad()
def test_a_projection_is_taken_by_each_task(name, linear, blobs):
    learner = build(name, linear(4, 6).float(), {"projection": 3, "normalise": True}).eval()
    learner.projection.weight.copy_(torch.randn(3, 6, generator=torch.Generator().manual_seed(3)))
    states, queries = fitted(learner, blobs, (2, 3), 6, tasks=4)
    torch.testing.assert_close(learner.score_each(states, queries), one_by_one(learner, states, queries), **TOLERANCE)


@torch.no_grad()
def test_full_context_is_read_by_each_task_from_its_own_support_set(linear, blobs):
    learner = build("matching", linear(4, 6).float(), {"full_context": True, "context_steps": 3}).eval()
    generator = torch.Generator().manual_seed(3)
    for weight in learner.context.parameters():
        weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    states, queries = fitted(learner, blobs, (2, 3), 6, tasks=4)
    torch.testing.assert_close(learner.score_each(states, queries), one_by_one(learner, states, queries), **TOLERANCE)


@pytest.mark.parametrize("name", ["protonet", "ridge", "logistic", "matching", "svm", "mahalanobis", "anil"])
@torch.no_grad()
def test_those_that_are_served_most_score_many_tasks_in_one_call(name, same, blobs):
    learner = build(name, same, {}).eval()
    states, queries = fitted(learner, blobs, (2, 2), 8, tasks=5)
    calls, score = [], learner.score
    learner.score = lambda state, features: (calls.append(len(features)), score(state, features))[1]
    learner.score_each(states, queries)
    assert calls == [5]


@dataclass(frozen=True)
class NearestSettings(EmbeddingSettings):
    """None of its own."""


class Nearest(EmbeddingLearner[NearestSettings]):
    """A learner whose author thought of one task at a time."""

    paper: ClassVar[str] = "none"
    cost: ClassVar[str] = "none"
    Settings: ClassVar[type[EmbeddingSettings]] = NearestSettings

    def fit(self, features, labels, way):
        return {"first": torch.stack([features[labels == label][0] for label in range(way)])}

    def score(self, state, features):
        return -torch.cdist(features, state["first"])[:, : len(state["first"])]


@torch.no_grad()
def test_a_learner_that_does_not_stack_is_asked_for_each_task(same, blobs):
    learner = Nearest(same, NearestSettings()).eval()
    states, queries = fitted(learner, blobs, (2, 3), 4, tasks=3)
    assert torch.equal(learner.score_each(states, queries), one_by_one(learner, states, queries))
