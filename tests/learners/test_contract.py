"""What every learner must do. A new file in app/learners is run here without being named."""

from functools import partial

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import nn

from app.core.episode import Episode, Support
from app.learners import build, learner_class, learner_names, settings_schema
from app.learners._base import EmbeddingLearner, Learner

NOT_DIFFERENTIATED = ("finetune", "reptile")
"""One is not meta-trained, and the other's gradient is not that of its loss: see their own tests."""

SETS = [(1, 1), (5, 5, 5), (1, 4, 2, 7), (20, 3)]
OPTIONS = {name: [{}] for name in learner_names()}
for _name, _options in OPTIONS.items():
    if "normalise" in settings_schema(_name)["properties"]:
        _options.append({"normalise": True})
OPTIONS["protonet"].append({"relative": True, "temperature": 10.0})
OPTIONS["anil"].append({"head": "prototypes", "learned_rates": True})
CASES = [(name, options) for name, several in OPTIONS.items() for options in several]

every_learner = pytest.mark.parametrize(
    ("name", "options"), CASES, ids=[f"{name}-{'-'.join(options) or 'defaults'}" for name, options in CASES]
)
learners_differentiated = pytest.mark.parametrize(
    ("name", "options"), [case for case in CASES if case[0] not in NOT_DIFFERENTIATED], ids=str
)
every_set = pytest.mark.parametrize("shots", SETS, ids=str)


@every_learner
@every_set
def test_adapting_twice_gives_the_same_state(name, options, shots, same, blobs):
    inputs, labels = blobs(shots, 12)
    learner = build(name, same, options)
    first, second = (learner.adapt(Support(inputs, labels, len(shots))) for _ in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@every_learner
@every_set
def test_the_order_of_examples_changes_no_logit(name, options, shots, same, blobs):
    inputs, labels = blobs(shots, 12)
    queries, _ = blobs((4, 4), 12, seed=1)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(3))
    learner = build(name, same, options)
    plain = learner.logits(learner.adapt(Support(inputs, labels, len(shots))), queries)
    mixed = learner.logits(learner.adapt(Support(inputs[order], labels[order], len(shots))), queries)
    torch.testing.assert_close(mixed, plain, rtol=1e-6, atol=1e-6 * float(plain.abs().max().clamp_min(1)))


@every_learner
@every_set
def test_renumbering_the_labels_permutes_the_columns(name, options, shots, same, blobs):
    inputs, labels = blobs(shots, 12)
    queries, _ = blobs((4, 4), 12, seed=1)
    way = len(shots)
    number = torch.randperm(way, generator=torch.Generator().manual_seed(4))
    learner = build(name, same, options)
    plain = learner.logits(learner.adapt(Support(inputs, labels, way)), queries)
    renumbered = learner.logits(learner.adapt(Support(inputs, number[labels], way)), queries)
    torch.testing.assert_close(
        renumbered[:, number], plain, rtol=1e-5, atol=1e-5 * float(plain.abs().max().clamp_min(1))
    )


@every_learner
def test_a_state_is_flat_and_survives_safetensors(name, options, same, blobs):
    inputs, labels = blobs((3, 1, 2), 6)
    learner = build(name, same, options)
    state = learner.adapt(Support(inputs, labels, 3))
    assert all(isinstance(tensor, torch.Tensor) and tensor.is_contiguous() for tensor in state.values())
    assert {tensor.dtype for tensor in state.values()} <= {torch.float32, torch.int64}
    loaded = load(save(dict(state)))
    assert torch.equal(learner.logits(loaded, inputs), learner.logits(state, inputs))


@every_learner
@pytest.mark.parametrize("dim", [1, 12, 4096])
def test_a_query_scores_the_same_alone_batched_padded_and_reordered(name, options, dim, same, blobs):
    inputs, labels = blobs((5, 5, 5, 2), dim)
    queries, _ = blobs((20, 13), dim, seed=1)
    learner = build(name, same, options)
    state = learner.adapt(Support(inputs, labels, 4))
    batched = learner.logits(state, queries)
    close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-5 * float(batched.abs().max().clamp_min(1)))
    close(torch.cat([learner.logits(state, one[None]) for one in queries]), batched)
    close(learner.logits(state, queries.flip(0)).flip(0), batched)
    close(learner.logits(state, torch.cat([queries, torch.zeros(31, dim)]))[: len(queries)], batched)


@every_learner
@every_set
@pytest.mark.parametrize("dim", [1, 3, 4096])
def test_probabilities_are_finite_and_sum_to_one(name, options, shots, dim, same, blobs):
    inputs, labels = blobs(shots, dim)
    queries, _ = blobs((4, 4), dim, seed=1)
    learner = build(name, same, options)
    logits = learner.logits(learner.adapt(Support(inputs, labels, len(shots))), queries)
    assert logits.shape == (8, len(shots))
    torch.testing.assert_close(logits.softmax(-1).sum(-1), torch.ones(8))


@every_learner
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-12, 1.0, 1e12, 1e30], ids=str)
@pytest.mark.parametrize("kind", ["spread", "identical", "duplicates", "far from the origin"])
def test_odd_support_sets_give_finite_logits(name, options, scale, kind, same, blobs):
    inputs, labels = blobs((3, 1, 4), 5)
    if kind == "identical":
        inputs = inputs[:1].expand_as(inputs)
    elif kind == "duplicates":
        inputs = inputs[[0, 0, 0, 1, 1, 2, 3, 3]]
    elif kind == "far from the origin":
        inputs = inputs + 1e6
    queries = torch.cat([scale * inputs, torch.zeros(1, 5), torch.ones(1, 5), torch.full((1, 5), -1e30)])
    learner = build(name, same, options)
    logits = learner.logits(learner.adapt(Support(scale * inputs, labels, 3)), queries)
    assert bool(logits.isfinite().all())
    assert bool(logits.softmax(-1).isfinite().all())


@every_learner
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shots=st.lists(st.integers(1, 6), min_size=2, max_size=6),
    dim=st.integers(1, 30),
    power=st.integers(-18, 18),
    seed=st.integers(0, 999),
)
def test_any_support_set_gives_finite_logits_of_every_class(name, options, same, blobs, shots, dim, power, seed):
    inputs, labels = blobs(shots, dim, seed=seed)
    inputs = inputs * 10.0**power
    learner = build(name, same, options)
    logits = learner.logits(learner.adapt(Support(inputs, labels, len(shots))), inputs)
    assert logits.shape == (len(inputs), len(shots))
    assert bool(logits.isfinite().all())


@every_learner
def test_well_separated_classes_are_told_apart(name, options, same, blobs):
    inputs, labels = blobs((6, 2, 4), 16, distance=8.0)
    learner = build(name, same, options)
    state = learner.adapt(Support(inputs[4:], labels[4:], 3))
    assert torch.equal(learner.logits(state, inputs[:4]).argmax(-1), labels[:4])


@learners_differentiated
@pytest.mark.parametrize("shots", [(3, 3), (2, 1, 4)], ids=str)
@pytest.mark.parametrize("dim", [3, 9])
def test_the_episode_loss_has_the_gradient_that_finite_differences_give(
    name, options, shots, dim, linear, blobs, monkeypatch
):
    module = __import__(learner_class(name).__module__, fromlist=["_TIGHT"])
    monkeypatch.setattr(module, "_TIGHT", 1e-10, raising=False)
    backbone = linear(4, dim)
    learner = build(name, backbone, options)
    inputs, labels = blobs(shots, 4)
    queries, truth = blobs(shots, 4, seed=1)
    episode = Episode(Support(inputs.double(), labels, len(shots)), queries.double(), truth)
    loss = learner.episode_loss(episode)
    weight = dict(backbone.named_parameters())["map.weight"]
    (slope,) = torch.autograd.grad(loss, weight)
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    direction = direction / direction.norm()

    def moved(by: float) -> float:
        with torch.no_grad():
            weight.add_(by * direction)
            value = float(learner.episode_loss(episode))
            weight.sub_(by * direction)
        return value

    step = 1e-4
    expected = (moved(step) - moved(-step)) / (2 * step)
    assert float((slope * direction).sum()) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert bool(slope.isfinite().all())


@every_learner
def test_the_learner_holds_no_task_state(name, options, same, blobs):
    learner = build(name, same, options)
    before, weights = set(vars(learner)), {key: one.clone() for key, one in learner.state_dict().items()}
    learner.adapt(Support(*blobs((2, 2), 4), 2))
    assert set(vars(learner)) == before
    assert learner.state_dict().keys() == weights.keys()
    assert all(torch.equal(one, weights[key]) for key, one in learner.state_dict().items())


@every_learner
@pytest.mark.parametrize("dim", [3, 40])
def test_leave_one_out_equals_explicit_refits(name, options, dim, same, blobs, monkeypatch):
    learner = build(name, same, options)
    if not isinstance(learner, EmbeddingLearner):
        pytest.skip("no closed form")
    shots = (3, 5, 2, 1)
    features, labels = blobs(shots, dim)
    # The unit of length stays that of the whole set, in the refits too.
    module = __import__(learner_class(name).__module__, fromlist=["spread"])
    if hasattr(module, "spread"):
        unit = module.spread(nn.functional.normalize(features) if options.get("normalise") else features)
        monkeypatch.setattr(module, "spread", lambda _: unit)
    held_out = learner.leave_one_out(features, labels, len(shots))
    if held_out is None:
        pytest.skip("no closed form")
    for i, label in enumerate(labels.tolist()):
        if shots[label] == 1:
            assert held_out[i, label] == -torch.inf
            continue
        rest = torch.arange(len(labels)) != i
        expected = learner.score(learner.fit(features[rest], labels[rest], len(shots)), features[i : i + 1])[0]
        torch.testing.assert_close(held_out[i], expected, rtol=1e-4, atol=1e-4)


@every_learner
def test_cross_validation_equals_explicit_refits(name, options, same, blobs, monkeypatch):
    learner = build(name, same, options)
    shots = (3, 5, 2, 1)
    features, labels = blobs(shots, 8)
    module = __import__(learner_class(name).__module__, fromlist=["spread"])
    monkeypatch.setattr(module, "_COARSE", 1e-8, raising=False)
    if hasattr(module, "spread") and not hasattr(module, "fold_products"):
        unit = module.spread(nn.functional.normalize(features) if options.get("normalise") else features)
        monkeypatch.setattr(module, "spread", lambda _: unit)
    folds = torch.arange(len(labels)) % 3
    folds[labels == 3] = -1
    for label in (0, 1, 2):
        folds[labels == label] = torch.arange(shots[label]) % 3
    scores = learner.cross_validate(features, labels, len(shots), folds)
    assert bool(scores[folds < 0].isnan().all())
    for fold in range(3):
        out = folds == fold
        kept = Support(features[~out], labels[~out], len(shots))
        expected = learner.logits(learner.adapt(kept), features[out])
        torch.testing.assert_close(scores[out].log_softmax(-1), expected.log_softmax(-1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", learner_names())
def test_every_learner_says_what_it_is(name):
    found = learner_class(name)
    assert issubclass(found, Learner)
    assert found.paper
    assert found.cost
    assert found.__doc__ is not None
    assert all(word in found.__doc__ for word in ("State:", "Logits:", "Cost:", "Raises:", "Paper:"))


def test_the_learners_of_the_first_release_are_found():
    assert set(learner_names()) >= {"logistic", "matching", "protonet", "ridge"}
