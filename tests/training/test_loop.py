from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from app.core.errors import ImprintError
from app.learners import learner_names
from app.training.build import Blueprint
from app.training.ema import Average, averaged
from app.training.embedding import embed_pool
from app.training.errors import BadData, BadRecipe
from app.training.evaluate import Accuracy, evaluate
from app.training.loop import Diverged, Run, StageLoop
from app.training.parallel import Ranks
from app.training.progress import Progress
from app.training.recipe import (
    Augmentation,
    Classes,
    Distillation,
    Episodes,
    Judging,
    Named,
    Optimiser,
    Recipe,
    Stage,
    Validation,
)
from app.training.report import Report
from app.training.sampler import Pool
from app.training.train import Pools, Trained, stored_state, train

Alphabet = Callable[[int, int], Pool]


class _Heard(Report):
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.standings: list[Progress] = []
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def validated(self, standing: Progress) -> None:
        self.standings.append(standing)


def _trained(recipe: Recipe, pools: Pools) -> Trained:
    return train(Blueprint(recipe), pools, Run())


def _with_stage(recipe: Recipe, **changes: Any) -> Recipe:
    return replace(recipe, stages=(replace(recipe.stages[0], **changes),))


def _with_optimiser(recipe: Recipe, **changes: Any) -> Recipe:
    return _with_stage(recipe, optimiser=replace(recipe.stages[0].optimiser, **changes))


def _short(recipe: Recipe) -> Stage:
    """One step of the recipe's stage."""
    return replace(recipe.stages[0], optimiser=Optimiser(cycles=(1,), learning_rate=0.01))


def _weights(trained: Trained) -> dict[str, torch.Tensor]:
    return trained.learner.state_dict()


def _same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_run_learns_keeps_its_best_step_and_repeats_exactly(pools: Pools, recipe: Recipe) -> None:
    heard = _Heard()
    first = train(Blueprint(recipe), pools, Run(report=heard))
    assert [one.step for one in heard.standings] == [6, 12]
    assert len(first.losses) == 12
    assert sum(first.losses[-3:]) < sum(first.losses[:3])
    assert heard.standings[0].loss == pytest.approx(sum(first.losses[:6]) / 6)
    assert first.best.validation.mean == max(one.validation.mean for one in heard.standings)
    assert not first.learner.training
    again = _trained(recipe, pools)
    assert again.losses == first.losses
    assert _same(_weights(first), _weights(again))
    assert not _same(_weights(first), _weights(_trained(replace(recipe, seed=4), pools)))


@pytest.mark.parametrize(("keep", "kept"), [("best", 0), ("last", 1)])
def test_the_weights_of_the_best_step_come_out_or_of_the_last_where_the_stage_says_so(
    pools: Pools, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, keep: str, kept: int
) -> None:
    """Each validation is made worse than the one before: the first is the best."""
    seen: list[dict[str, torch.Tensor]] = []

    def worse(loop: StageLoop) -> Accuracy:
        seen.append({name: one.clone() for name, one in loop.objective.learner.state_dict().items()})
        return Accuracy(1 / len(seen), 0.0, 20)

    monkeypatch.setattr(StageLoop, "_judged", worse)
    trained = _trained(_with_stage(recipe, keep=keep), pools)
    assert not _same(seen[0], seen[1])
    assert trained.best.step == 6 * (1 + kept)
    assert _same(_weights(trained), seen[kept])


def test_training_leaves_the_global_generator_alone(pools: Pools, recipe: Recipe) -> None:
    before = torch.random.get_rng_state()
    plan = Optimiser(cycles=(1,), learning_rate=0.1)
    random = Named("learned_optimizer")  # its own network starts at random
    _trained(replace(recipe, learner=random, stages=(Stage("classify", plan), _short(recipe))), pools)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_running_average_is_what_is_judged_and_kept(pools: Pools, recipe: Recipe) -> None:
    plain, smooth = _trained(recipe, pools), _trained(_with_optimiser(recipe, ema_decay=0.9), pools)
    assert plain.losses == smooth.losses  # training itself goes its own way
    assert not _same(_weights(plain), _weights(smooth))
    assert evaluate(smooth.learner, pools.validation, recipe.validation.judging) == smooth.best.validation


def test_an_average_forgets_its_start_and_gives_the_weights_back(pools: Pools, recipe: Recipe) -> None:
    objective = Blueprint(recipe).objective(0, pools.training, {}, Run().ranks)
    average = Average(objective, 0.5)
    with torch.no_grad():
        for one in objective.parameters():
            one.fill_(1.0)
    for _ in range(40):
        average.update(objective)
    for name, _ in objective.named_parameters():
        torch.testing.assert_close(average.weights[name], torch.ones_like(average.weights[name]))
    with torch.no_grad():
        for one in objective.parameters():
            one.fill_(2.0)
    with averaged(objective, average):
        assert all(bool((one < 1.1).all()) for one in objective.parameters())
    assert all(bool((one == 2).all()) for one in objective.parameters())


def test_a_loss_that_is_no_number_ends_the_run_with_its_step(pools: Pools, recipe: Recipe) -> None:
    with pytest.raises(Diverged, match=r"step \d+ of the stage 'episodes'"):
        _trained(_with_optimiser(recipe, learning_rate=1e38, kind="sgd", cycles=(6, 6)), pools)


def test_clipping_holds_a_step_back(pools: Pools, recipe: Recipe) -> None:
    fast = _with_optimiser(recipe, kind="sgd", learning_rate=1.0, cycles=(1,), warmup_steps=0, momentum=0.0)
    start = Blueprint(recipe).learner(Blueprint(recipe).backbone()).state_dict()
    moved = {}
    for norm in (None, 1e-3):
        after = _weights(_trained(_with_optimiser(fast, clip_norm=norm), pools))
        names = [name for name, _ in Blueprint(recipe).backbone().named_parameters()]
        moves = [(after[f"backbone.{name}"] - start[f"backbone.{name}"]).flatten() for name in names]
        moved[norm] = float(torch.cat(moves).norm())
    assert moved[1e-3] == pytest.approx(1e-3, rel=1e-3)
    assert moved[None] > 10 * moved[1e-3]


def test_pretraining_and_self_distillation_hand_their_network_on(pools: Pools, recipe: Recipe) -> None:
    plan = Optimiser(cycles=(10,), learning_rate=0.02, kind="sgd", weight_decay=5e-4)
    pupil = Stage("distill", plan, classes=Classes(batch=36), distillation=Distillation(fresh=False), every_steps=5)
    stages = (Stage("classify", plan, classes=Classes(batch=36)), pupil, recipe.stages[0])
    heard = _Heard()
    trained = train(Blueprint(replace(recipe, stages=stages)), pools, Run(report=heard))
    assert [(one.kind, one.step) for one in heard.standings] == [
        ("classify", 6),
        ("classify", 10),
        ("distill", 5),
        ("distill", 10),
        ("episodes", 6),
        ("episodes", 12),
    ]
    assert len(trained.losses) == 32
    assert sum(trained.losses[8:10]) < 0.8 * sum(trained.losses[:2])
    # A student that starts as its teacher starts where that one stood; one born again does not.
    assert trained.losses[10] < 0.7 * trained.losses[0]
    assert trained.best.stage == 2


def test_a_student_born_again_starts_from_other_random_weights(pools: Pools, recipe: Recipe) -> None:
    plan = Optimiser(cycles=(1,), learning_rate=0.02)
    stages = (Stage("classify", plan), Stage("distill", plan))
    blueprint = Blueprint(replace(recipe, stages=stages))
    teacher = blueprint.objective(0, pools.training, {}, Run().ranks)
    student = blueprint.objective(1, pools.training, teacher.weights(), Run().ranks)
    assert set(student.weights()) == set(teacher.weights())  # the teacher is no part of the student
    assert not _same(student.weights(), teacher.weights())
    assert all(one.requires_grad for one in student.parameters())


def test_a_run_of_classification_alone_ends_in_the_recipes_learner(pools: Pools, recipe: Recipe) -> None:
    plan = Optimiser(cycles=(10,), learning_rate=0.02)
    only = replace(recipe, stages=(Stage("classify", plan, classes=Classes(batch=36)),), learner=Named("ridge", {}))
    trained = _trained(only, pools)
    assert type(trained.learner).__name__ == "Ridge"
    assert evaluate(trained.learner, pools.validation, recipe.validation.judging) == trained.best.validation


def test_a_frozen_network_is_left_alone_while_the_learner_learns(pools: Pools, recipe: Recipe) -> None:
    learner = Named("anil", {"projection": 4, "learned_rates": True})
    stage = replace(recipe.stages[0], augmentation=Augmentation())
    frozen = replace(recipe, learner=learner, stages=(stage,), freeze_backbone=True)
    heard = _Heard()
    trained = train(Blueprint(frozen), pools, Run(report=heard))
    assert _same(Blueprint(recipe).backbone().state_dict(), trained.learner.backbone.state_dict())
    assert not torch.equal(trained.learner.state_dict()["projection.weight"], torch.eye(4, 8))
    assert evaluate(trained.learner, pools.validation, recipe.validation.judging) == trained.best.validation
    assert any("embedding 120 examples" in line for line in heard.lines)
    features = embed_pool(trained.learner.backbone, pools.validation)
    assert features.inputs.shape == (48, 8)


def test_learned_settings_move_and_are_told(pools: Pools, recipe: Recipe) -> None:
    fast = _with_optimiser(replace(recipe, learner=Named("anil", {"learning_rate": 0.5})), learner_factor=10.0)
    trained = _trained(fast, pools)
    assert trained.learner.learned_settings()["learning_rate"] != pytest.approx(0.5, abs=1e-3)


def test_the_learner_hears_how_far_its_training_is(pools: Pools, recipe: Recipe, monkeypatch: Any) -> None:
    from app.learners.protonet import ProtoNet

    seen = []
    loss = ProtoNet.feature_loss
    monkeypatch.setattr(
        ProtoNet, "feature_loss", lambda self, one: seen.append(self.training_progress) or loss(self, one)
    )
    _trained(_with_optimiser(recipe, cycles=(4,)), pools)
    assert sorted(set(seen)) == [0.0, 0.25, 0.5, 0.75]


def test_a_learner_that_adapts_the_network_itself_cannot_leave_it_alone(pools: Pools, recipe: Recipe) -> None:
    stage = replace(recipe.stages[0], augmentation=Augmentation())
    with pytest.raises(BadRecipe, match="adapts the network itself"):
        _trained(replace(recipe, learner=Named("maml"), stages=(stage,), freeze_backbone=True), pools)


def test_a_learner_that_is_not_meta_trained_says_so(pools: Pools, recipe: Recipe) -> None:
    with pytest.raises(ImprintError, match="not meta-trained"):
        _trained(replace(recipe, learner=Named("finetune")), pools)


def test_pools_too_small_for_the_episodes_are_refused_at_once(alphabet: Alphabet, recipe: Recipe) -> None:
    with pytest.raises(BadData, match="omniglot/val"):
        _trained(recipe, Pools(alphabet(12, 0), alphabet(4, 1)))
    with pytest.raises(BadData, match="omniglot/train"):
        _trained(recipe, Pools(alphabet(4, 0), alphabet(8, 1)))


def test_a_learner_or_a_setting_that_there_is_not_is_refused_by_name(pools: Pools, recipe: Recipe) -> None:
    with pytest.raises(BadRecipe, match="protonets"):
        _trained(replace(recipe, learner=Named("protonets")), pools)
    with pytest.raises(BadRecipe, match="temper"):
        _trained(replace(recipe, learner=Named("protonet", {"temper": 1.0})), pools)


@pytest.mark.parametrize("name", [one for one in learner_names() if one != "finetune"])
def test_every_learner_can_be_meta_trained(alphabet: Alphabet, recipe: Recipe, name: str) -> None:
    """Two steps of two episodes each: something of it moves, and the loss is a number."""
    stage = replace(
        recipe.stages[0],
        episodes=Episodes(way=3, shot=2, queries=2, meta_batch=2, accumulate="loop"),
        optimiser=Optimiser(cycles=(2,), learning_rate=0.01, final_share=1.0),
    )
    validation = Validation(2, Judging(way=3, shot=1, episodes=2, queries=2))
    backbone = Named("conv4", {"filters": 8, "norm": "group"})
    changed = replace(recipe, backbone=backbone, learner=Named(name), stages=(stage,), validation=validation)
    trained = _trained(changed, Pools(alphabet(4, 0), alphabet(3, 1)))
    before = Blueprint(changed).learner(Blueprint(changed).backbone()).state_dict()
    assert not _same(before, _weights(trained))
    assert len(trained.losses) == 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ["protonet", "maml"])
def test_a_run_on_a_gpu_learns_in_mixed_precision_and_goes_on_where_it_was(
    pools: Pools, recipe: Recipe, tmp_path: Path, name: str
) -> None:
    plan = Optimiser(cycles=(12,), learning_rate=0.01, amp="gpu", ema_decay=0.9, clip_norm=10.0)
    episodes = Episodes(way=4, shot=1, queries=3, meta_batch=3)
    stage = replace(recipe.stages[0], optimiser=plan, episodes=episodes)
    backbone = Named("conv4", {"filters": 8, "norm": "group"})
    blueprint = Blueprint(replace(recipe, backbone=backbone, learner=Named(name), stages=(stage,)))
    run = Run(Ranks(device=torch.device("cuda", 0)), tmp_path, save_every_s=0.0)
    trained = train(blueprint, pools, run)
    assert next(trained.learner.parameters()).is_cuda
    assert sum(trained.losses[-3:]) < sum(trained.losses[:3])
    state = stored_state(blueprint, pools, run)
    again = train(blueprint, pools, run, state)
    assert again.losses == trained.losses
