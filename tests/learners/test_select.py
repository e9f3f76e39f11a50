"""Which learner `auto` takes, and what it says of it."""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.learners import _select as module
from app.learners import build
from app.learners._base import Learner
from app.learners._select import judge, select

ORDER = ("logistic", "ridge", "protonet", "matching")


@pytest.fixture
def candidates(same):
    return {name: build(name, same, {}) for name in ORDER}


def test_selecting_twice_gives_the_same_answer(candidates, blobs):
    features, labels = blobs((5, 5, 3), 10)
    assert select(candidates, features, labels, 3) == select(candidates, features, labels, 3)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shots=st.lists(st.integers(1, 7), min_size=2, max_size=5), seed=st.integers(0, 999))
def test_numbering_changes_nothing_of_the_choice(candidates, blobs, shots, seed):
    features, labels = blobs(shots, 6, seed=seed, distance=1.0)
    way = len(shots)
    generator = torch.Generator().manual_seed(seed)
    number = torch.randperm(way, generator=generator)
    plain = select(candidates, features, labels, way)
    mixed = select(candidates, features, number[labels], way)
    assert mixed.chosen == plain.chosen
    assert {name: one.accuracy for name, one in mixed.scores.items()} == {
        name: one.accuracy for name, one in plain.scores.items()
    }


def test_the_first_learner_is_kept_where_the_difference_may_be_chance(candidates, blobs):
    features, labels = blobs((5, 5), 10, distance=5.0)
    selection = select(candidates, features, labels, 2)
    assert selection.chosen == "logistic"
    assert set(selection.scores) == set(ORDER)


AS_SERVED = {
    "logistic": {"temperature": 1.0, "normalise": True},
    "ridge": {"normalise": True},
    "protonet": {"temperature": 10.0, "relative": True, "normalise": True},
    "matching": {"temperature": 20.0},
}


@pytest.mark.parametrize("options", [{}, AS_SERVED], ids=["plain", "as served"])
@pytest.mark.parametrize("distance", [0.1, 0.3, 1.0, 4.0])
@pytest.mark.parametrize(("shots", "dim"), [((5,) * 5, 640), ((2,) * 10, 64), ((7, 1, 3, 12), 5), ((30, 22), 200)])
def test_all_folds_at_once_choose_what_fold_by_fold_chooses(same, blobs, shots, dim, distance, options, monkeypatch):
    candidates = {name: build(name, same, options.get(name, {})) for name in ORDER}
    sets = [blobs(shots, dim, seed=seed, distance=distance) for seed in range(4)]
    at_once = [select(candidates, features, labels, len(shots)) for features, labels in sets]
    for name in ("ridge", "protonet", "matching"):
        assert type(candidates[name]).cross_validate is not Learner.cross_validate
        monkeypatch.setattr(type(candidates[name]), "cross_validate", Learner.cross_validate)
    for (features, labels), found in zip(sets, at_once, strict=True):
        slow = select(candidates, features, labels, len(shots))
        assert (found.chosen, found.reason) == (slow.chosen, slow.reason)
        for name, one in slow.scores.items():
            assert found.scores[name].accuracy == one.accuracy
            assert found.scores[name].log_loss == pytest.approx(one.log_loss, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", ["ridge", "protonet", "matching"])
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e9, 1e14])
@pytest.mark.parametrize("options", [{}, {"normalise": True}], ids=["plain", "normalised"])
def test_all_folds_at_once_score_as_fold_by_fold_whatever_the_scale(name, scale, options, same, blobs):
    learner = build(name, same, options | ({"relative": True} if name == "protonet" else {}))
    features, labels = blobs((4, 3, 1, 2), 20)
    features[labels == 1] = features[labels == 1][:1]  # alike, so that a fold may keep nothing else of a class
    features = scale * features
    split = module._split(labels, 4)
    found = learner.cross_validate(features, labels, 4, split)
    expected = Learner.cross_validate(learner, features, labels, 4, split)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3, equal_nan=True)


@pytest.mark.parametrize("name", ["ridge", "protonet", "matching"])
def test_a_large_set_is_judged_fold_by_fold(name, same, blobs, monkeypatch):
    learner = build(name, same, {})
    features, labels = blobs((140, 130), 4)
    fits = []
    fit = type(learner).fit
    monkeypatch.setattr(type(learner), "fit", lambda *given: fits.append(len(given[1])) or fit(*given))
    assert judge(learner, features, labels, 2).method == "10-fold"
    assert fits == [243] * 10
    fits.clear()
    assert judge(learner, features[:200], labels[:200], 2).method == "10-fold"
    assert fits == []


def test_a_clearly_better_learner_is_taken(candidates):
    # Two classes, each of two clusters on opposite sides: no line parts them, their neighbours do.
    generator = torch.Generator().manual_seed(0)
    angles = torch.tensor([0.0, 0.5, 1.0, 1.5]).repeat_interleave(10) * math.pi
    labels = torch.tensor([0, 1, 0, 1]).repeat_interleave(10)
    features = torch.stack([angles.cos(), angles.sin()], dim=1) + 0.1 * torch.randn(40, 2, generator=generator)
    selection = select(candidates, features, labels, 2)
    assert selection.chosen == "matching"
    assert selection.scores["matching"].accuracy > 0.9
    assert "most accurate" in selection.reason


def test_one_shot_everywhere_is_the_default_and_says_so(candidates, blobs):
    features, labels = blobs((1, 1, 1), 4)
    selection = select(candidates, features, labels, 3)
    assert (selection.chosen, dict(selection.scores)) == ("logistic", {})
    assert "two examples" in selection.reason
    assert judge(candidates["ridge"], features, labels, 3) is None


def test_an_example_alone_in_its_class_is_not_judged(candidates, blobs):
    features, labels = blobs((4, 1, 3), 4)
    held_out = judge(candidates["protonet"], features, labels, 3)
    assert held_out.examples == 7
    assert held_out.method == "leave-one-out-per-label"


def test_many_shots_are_judged_in_folds(candidates, blobs):
    features, labels = blobs((30, 14), 4)
    assert judge(candidates["protonet"], features, labels, 2).method == "10-fold"


def test_a_small_budget_takes_fewer_folds_for_all_and_leaves_out_who_exceeds_it(candidates, blobs, monkeypatch):
    features, labels = blobs((6, 6, 6), 8)
    cost = {name: [one.held_out_products(18, 8, 3, folds) for folds in (6, 3, 2)] for name, one in candidates.items()}
    monkeypatch.setattr(module, "PRODUCTS_PER_EXAMPLE", cost["logistic"][1] / 18)
    selection = select(candidates, features, labels, 3)
    assert {one.method for one in selection.scores.values()} == {"3-fold"}
    monkeypatch.setattr(module, "PRODUCTS_PER_EXAMPLE", (cost["logistic"][2] - 1) / 18)
    selection = select(candidates, features, labels, 3)
    assert set(selection.scores) == {"ridge", "protonet", "matching"}
    assert "Too costly to judge on so large a set: logistic." in selection.reason
    monkeypatch.setattr(module, "PRODUCTS_PER_EXAMPLE", 0)
    selection = select(candidates, features, labels, 3)
    assert (selection.chosen, dict(selection.scores)) == ("logistic", {})


def test_every_example_is_held_out_once_and_no_class_empties(blobs):
    _, labels = blobs((5, 2, 1, 9), 4)
    split = module._split(labels, 5)
    assert torch.equal(split == -1, labels == 2)
    assert torch.bincount(split[labels == 3]).tolist() == [2, 2, 2, 2, 1]
    for fold in range(5):
        assert bool((labels[split != fold].bincount(minlength=4) > 0).all())


def test_identical_examples_under_two_labels_count_as_wrong(candidates):
    features, labels = torch.ones(6, 3), torch.tensor([0, 0, 0, 1, 1, 1])
    assert judge(candidates["protonet"], features, labels, 2).accuracy == 0.0


def test_the_interval_is_wilsons():
    # 8 of 10: Wilson's 95 % interval is 0.4902 to 0.9433.
    assert module._wilson_95(0.8, 10) == pytest.approx((0.9433 - 0.4902) / 2, abs=1e-4)


def test_the_log_loss_is_that_of_the_confidences_as_served(candidates, blobs):
    features, labels = blobs((4, 4), 3, distance=1.0)
    learner = candidates["protonet"]
    held_out = judge(learner, features, labels, 2)
    split = module._split(labels, 4)
    losses = []
    for fold in range(4):
        state = learner.fit(features[split != fold], labels[split != fold], 2)
        logits = learner.score(state, features[split == fold])
        losses += torch.nn.functional.cross_entropy(logits, labels[split == fold], reduction="none").tolist()
    assert held_out.log_loss == pytest.approx(sum(losses) / len(losses), abs=1e-5)
