"""Matching with full context embeddings: the paper's equations, and what must not matter."""

import math

import pytest
import torch
from torch import nn

from app.core.episode import Episode, Support
from app.core.errors import InvalidSetting
from app.learners import build


@pytest.fixture
def matching(same, monkeypatch):
    """A learner whose networks have random weights, over embeddings of six numbers."""
    monkeypatch.setattr(same, "dim", 6)

    def make(settings=None, weights=0.5):
        learner = build("matching", same, {"full_context": True, "temperature": 4.0, **(settings or {})})
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in learner.context.parameters():
                parameter.copy_(weights * torch.randn(parameter.shape, generator=generator))
        return learner

    return make


def _cell(weights, suffix, inputs, hidden, cell):
    """An LSTM step written out (Hochreiter and Schmidhuber 1997, with a forget gate)."""
    gates = weights[f"weight_ih{suffix}"] @ inputs + weights[f"bias_ih{suffix}"]
    gates = gates + weights[f"weight_hh{suffix}"] @ hidden + weights[f"bias_hh{suffix}"]
    into, forget, candidate, out = gates.chunk(4)
    cell = forget.sigmoid() * cell + into.sigmoid() * candidate.tanh()
    return out.sigmoid() * cell.tanh(), cell


def test_the_logits_are_those_of_the_papers_equations(matching, blobs):
    features, labels = blobs((3, 1, 2), 6)
    queries, _ = blobs((2, 2), 6, seed=1)
    learner = matching({"context_steps": 3})
    ours = learner.score(learner.fit(features, labels, 3), queries)

    support, query = (nn.functional.normalize(one) * math.sqrt(6) for one in (features, queries))
    order = sorted(range(6), key=lambda i: support[i].tolist())
    both = dict(learner.context.over_support.named_parameters())
    contextual = support.clone()
    for suffix, places in (("_l0", order), ("_l0_reverse", order[::-1])):
        hidden = cell = torch.zeros(6)
        for i in places:
            hidden, cell = _cell(both, suffix, support[i], hidden, cell)
            contextual[i] += hidden
    over_query = dict(learner.context.over_query.named_parameters())
    for row, given in zip(query, ours, strict=True):
        hidden = cell = torch.zeros(6)
        for _ in range(3):
            read = (4.0 * contextual @ hidden / 6).softmax(0) @ contextual
            hidden, cell = _cell(over_query, "", torch.cat([row, read]), hidden, cell)
            hidden = hidden + row
        energies = 4.0 * torch.cosine_similarity(hidden[None], contextual)
        means = torch.stack([energies[labels == k].exp().mean() for k in range(3)])
        torch.testing.assert_close(given, (means / means.sum()).log(), rtol=1e-4, atol=1e-5)


def test_before_training_it_is_matching_without_context(same, monkeypatch, blobs):
    monkeypatch.setattr(same, "dim", 6)
    features, labels = blobs((3, 1, 2), 6)
    plain, full = (build("matching", same, {"full_context": full}) for full in (False, True))
    scores = [one.score(one.fit(features, labels, 3), features) for one in (plain, full)]
    torch.testing.assert_close(*scores, rtol=1e-5, atol=1e-5)


def test_neither_the_order_of_examples_nor_of_labels_matters(matching, blobs):
    features, labels = blobs((4, 1, 3), 6)
    features = features[[0, 0, 2, 3, 4, 5, 6, 6]]  # with examples that are embedded alike
    queries, _ = blobs((4, 4), 6, seed=1)
    learner = matching()
    plain = learner.score(learner.fit(features, labels, 3), queries)
    order, number = torch.tensor([5, 2, 7, 0, 1, 6, 3, 4]), torch.tensor([2, 0, 1])
    mixed = learner.score(learner.fit(features[order], number[labels[order]], 3), queries)
    torch.testing.assert_close(mixed[:, number], plain, rtol=1e-5, atol=1e-5)


def test_a_query_scores_the_same_alone_batched_and_padded(matching, blobs):
    features, labels = blobs((4, 1, 3), 6)
    queries, _ = blobs((20, 13), 6, seed=1)
    learner = matching()
    state = learner.fit(features, labels, 3)
    batched = learner.score(state, queries)
    torch.testing.assert_close(torch.cat([learner.score(state, one[None]) for one in queries]), batched)
    torch.testing.assert_close(learner.score(state, torch.cat([queries, torch.zeros(31, 6)]))[:33], batched)


def test_the_context_changes_the_answer(matching, blobs):
    features, labels = blobs((4, 4), 6)
    learner = matching()
    full = learner.score(learner.fit(features, labels, 2), features)
    rest = torch.arange(8) != int((labels == 0).nonzero()[0])
    fewer = learner.fit(features[rest], labels[rest], 2)
    kept = {**learner.fit(features, labels, 2), "labels": labels[rest], "shots": labels[rest].bincount()}
    kept["support"] = kept["support"][rest]
    assert not torch.allclose(learner.score(fewer, features), learner.score(kept, features), atol=1e-3)
    assert bool(full.isfinite().all())


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30])
def test_absurd_embeddings_give_finite_logits(scale, matching, blobs):
    features, labels = blobs((3, 1), 6)
    learner = matching(weights=30.0)
    assert bool(learner.score(learner.fit(scale * features, labels, 2), scale * features).isfinite().all())


def test_the_loss_has_the_slope_in_every_weight_that_finite_differences_give(matching, blobs):
    learner = matching({"context_steps": 2}).double().train()
    features, labels = blobs((2, 1, 2), 6, distance=0.5)
    queries, truth = blobs((2, 2, 2), 6, seed=1, distance=0.5)
    inputs = features.double().requires_grad_()
    episode = Episode(Support(inputs, labels, 3), queries.double(), truth)
    generator = torch.Generator().manual_seed(1)
    learned = {**dict(learner.context.named_parameters()), "embeddings": inputs}
    slopes = torch.autograd.grad(learner.feature_loss(episode), list(learned.values()))
    for (name, at), slope in zip(learned.items(), slopes, strict=True):
        direction = torch.randn(at.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            at.add_(1e-6 * direction)
            above = float(learner.feature_loss(episode))
            at.sub_(2e-6 * direction)
            expected = (above - float(learner.feature_loss(episode))) / 2e-6
            at.add_(1e-6 * direction)
        assert float((slope * direction).sum()) == pytest.approx(expected, rel=1e-5, abs=1e-8), name


def test_its_weights_are_its_own_state_and_come_back(matching, same, blobs):
    features, labels = blobs((3, 2), 6)
    trained = matching()
    fresh = build("matching", same, {"full_context": True, "temperature": 4.0})
    assert {name.split(".")[0] for name in trained.own_state()} == {"context"}
    assert sum(one.numel() for one in trained.own_state().values()) == 28 * 6 * 6 + 24 * 6
    fresh.load_own_state(trained.own_state())
    scores = [one.score(one.fit(features, labels, 2), features) for one in (trained, fresh)]
    torch.testing.assert_close(*scores, rtol=0, atol=0)


def test_held_out_scores_are_those_of_fits_without_the_fold(matching, blobs):
    features, labels = blobs((3, 3), 6)
    learner = matching()
    folds = torch.tensor([0, 1, 0, 1, 1, 0])
    scores = learner.cross_validate(features, labels, 2, folds)
    state = learner.fit(features[folds == 1], labels[folds == 1], 2)
    torch.testing.assert_close(scores[folds == 0], learner.score(state, features[folds == 0]))
    assert learner.leave_one_out(features, labels, 2) is None
    plain = build("matching", learner.backbone, {})
    assert learner.held_out_products(6, 6, 2, 2) > plain.held_out_products(6, 6, 2, 2)


def test_a_backbone_of_any_dim_has_no_full_context(same):
    with pytest.raises(InvalidSetting) as caught:
        build("matching", same, {"full_context": True})
    assert [fault.pointer for fault in caught.value.faults] == ["/full_context"]
