"""Inner loops whose head descends in units of the support set."""

import pytest
import torch

from app.backbones import build as build_backbone
from app.core.episode import Support
from app.learners import build

LEARNERS = ["maml", "metasgd"]
SETTINGS = {"head_units": "support", "steps": 4, "head_learning_rate": 3.0}


def _of_vectors(name, **settings):
    """A learner straight on vectors: only its head is adapted."""
    return build(name, build_backbone("identity", {}), {**SETTINGS, **settings}).eval()


@pytest.fixture
def support():
    generator = torch.Generator().manual_seed(0)
    return Support(4 + 3 * torch.randn(9, 5, generator=generator), torch.arange(3).repeat(3), 3)


@pytest.fixture
def queries():
    return 4 + 3 * torch.randn(6, 5, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", LEARNERS)
def test_over_a_backbone_that_stays_the_answers_are_those_of_anil(name, support, queries):
    """ANIL writes this descent on z itself; its loss is a sum over the classes, so its rate is a third."""
    anil = build("anil", build_backbone("identity", {}), {"steps": 4, "learning_rate": 1.0}).eval()
    learner = _of_vectors(name)
    found = learner.logits(learner.adapt(support), queries)
    torch.testing.assert_close(found, anil.logits(anil.adapt(support), queries), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", LEARNERS)
def test_answers_do_not_hang_on_where_and_how_large_embeddings_are(name, support, queries):
    learner = _of_vectors(name)
    found = learner.logits(learner.adapt(support), queries)
    moved = Support(100 * support.inputs + 70, support.labels, 3)
    torch.testing.assert_close(learner.logits(learner.adapt(moved), 100 * queries + 70), found, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", LEARNERS)
def test_examples_that_are_all_alike_tell_no_class_from_another(name):
    learner = _of_vectors(name)
    state = learner.adapt(Support(torch.full((4, 5), 2.5), torch.tensor([0, 0, 1, 1]), 2))
    found = learner.logits(state, torch.tensor([[2.5] * 5, [1.0] * 5]))
    torch.testing.assert_close(found[:, 0], found[:, 1])
    assert bool(found.isfinite().all())


def test_a_class_weighs_the_same_whatever_its_shot(support, queries):
    learner = _of_vectors("maml")
    found = learner.logits(learner.adapt(support), queries)
    thrice = support.labels == 0
    inputs = torch.cat([support.inputs, support.inputs[thrice], support.inputs[thrice]])
    labels = torch.cat([support.labels, torch.zeros(6, dtype=torch.int64)])
    again = learner.logits(learner.adapt(Support(inputs, labels, 3)), queries)
    torch.testing.assert_close(again, found, rtol=1e-5, atol=1e-5)


def test_the_scale_multiplies_the_scores_of_an_adapted_head_and_leaves_its_losses(support, queries):
    plain, scaled = _of_vectors("maml"), _of_vectors("maml", scale=4.0)
    one, other = plain.adapt(support), scaled.adapt(support)
    torch.testing.assert_close(scaled.logits(other, queries), 4 * plain.logits(one, queries))
    torch.testing.assert_close(other["support_losses"], one["support_losses"])
