"""Episodes whose inner loop leaves the finite numbers: left out in training, worth chance in judging."""

import json
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from app import backbones, learners
from app.backbones._base import Backbone
from app.training.build import Blueprint
from app.training.curves import Log
from app.training.evaluate import evaluate
from app.training.loop import Diverged, Run
from app.training.objective import EpisodesObjective
from app.training.outer import OuterLoop
from app.training.parallel import ALONE
from app.training.progress import Progress
from app.training.recipe import Episodes, Judging, Named, Optimiser, Recipe, Stage
from app.training.report import Report
from app.training.resume import RunState, digest_of
from app.training.sampler import Pool, draw, episode_generator
from app.training.stopping import Stopped, StopSign
from app.training.train import Pools, stored_state, train

PLAN = Optimiser(cycles=(12,), learning_rate=0.01)
MODES = ["loop", "workers", "vmap"]
MAML = {"training_steps": 2, "learned_rates": True}


class _Bent(Backbone):
    modality = "vector"

    def __init__(self) -> None:
        super().__init__()
        self.input_shape, self.dim = (6,), 5
        self.map = nn.Linear(6, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.tanh(self.map(inputs))


def _vectors(bad: int, classes: int = 12) -> Pool:
    """Classes of vectors; the last `bad` of them hold what is no number, so that episodes with them diverge."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(classes, 1, 6, generator=generator) + 0.3 * torch.randn(classes, 6, 6, generator=generator)
    rows[classes - bad :, :, 0] = torch.nan
    return Pool.of_classes(rows)


def _bad(pool: Pool, way: int, each: int, seed: int, number: int) -> bool:
    """Whether an episode draws a class of those."""
    rows = draw(pool, way, each, episode_generator(seed, number))
    return not bool(pool.take(rows).isfinite().all())


def _objective(pool: Pool, mode: str, meta_batch: int = 6) -> EpisodesObjective:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        learner = learners.build("maml", _Bent(), MAML)
    stage = Stage("episodes", PLAN, episodes=Episodes(way=3, images=3, splits=2, meta_batch=meta_batch))
    found = EpisodesObjective(learner, pool, stage, 0, ALONE).double().train()
    found.mode = mode  # type: ignore[assignment]
    return found


def _gradients(objective: EpisodesObjective) -> dict[str, Tensor]:
    return {name: one.grad.clone() for name, one in objective.named_parameters() if one.grad is not None}


@pytest.fixture
def _two_threads(_one_thread: None) -> Iterator[None]:
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.mark.usefixtures("_two_threads")
@pytest.mark.parametrize("mode", MODES)
def test_a_step_is_the_mean_of_its_episodes_that_did_not_diverge(mode: str) -> None:
    pool = _vectors(bad=2)
    pool = pool.with_inputs(pool.inputs.double())
    lost = [_bad(pool, 3, 3, 0, number) for number in range(6)]
    assert 0 < sum(lost) < 6
    outer = OuterLoop(_objective(pool, mode), PLAN)
    loss = outer.gradients(0)
    assert outer.left_out == sum(lost)
    alone = OuterLoop(_objective(pool, "loop", meta_batch=1), PLAN)
    expected: list[dict[str, Tensor]] = []
    losses = []
    for number in (number for number in range(6) if not lost[number]):
        losses.append(alone.gradients(number))
        expected.append(_gradients(alone.objective))  # type: ignore[arg-type]
    torch.testing.assert_close(loss, torch.stack(losses).mean())
    for name, one in _gradients(outer.objective).items():  # type: ignore[arg-type]
        torch.testing.assert_close(one, torch.stack([each[name] for each in expected]).mean(0), msg=name)


@pytest.mark.usefixtures("_two_threads")
@pytest.mark.parametrize("mode", MODES)
def test_the_step_after_one_with_losses_counts_anew(mode: str) -> None:
    pool = _vectors(bad=2)
    pool = pool.with_inputs(pool.inputs.double())
    outer, counts = OuterLoop(_objective(pool, mode), PLAN), []
    for step in range(5):
        outer.gradients(step)
        counts.append(outer.left_out)
    assert counts == [sum(_bad(pool, 3, 3, 0, 6 * step + one) for one in range(6)) for step in range(5)]
    assert len(set(counts)) > 1


class _Heard(Report):
    def __init__(self, sign: StopSign | None = None) -> None:
        self.sign, self.counts, self.standings = sign, [], []  # type: ignore[var-annotated]

    def left_out(self, episodes: int) -> None:
        self.counts.append(episodes)

    def validated(self, standing: Progress) -> None:
        self.standings.append(standing)
        if self.sign is not None and len(self.standings) == 2:
            self.sign.signum = signal.SIGTERM


@pytest.fixture
def blueprint(recipe: Recipe) -> Callable[..., Blueprint]:
    """A run of MAML on given vectors: 12 steps of so many episodes, validated every 4."""

    def make(meta_batch: int = 6, **settings: Any) -> Blueprint:
        episodes = Episodes(way=3, shot=1, queries=2, meta_batch=meta_batch, accumulate="loop")
        validation = replace(recipe.validation, every_steps=4, judging=Judging(way=3, shot=1, episodes=6, queries=2))
        return Blueprint(
            replace(
                recipe,
                backbone=Named("identity", {}),
                learner=Named("maml", {**MAML, **settings}),
                stages=(Stage("episodes", PLAN, episodes=episodes),),
                validation=validation,
            )
        )

    return make


@pytest.fixture
def pools() -> Pools:
    """Of 20 classes that train one is bad, of 8 that validate none."""
    return Pools(_vectors(bad=1, classes=20), _vectors(bad=0, classes=8))


def test_a_run_goes_on_and_tells_how_many_diverged(
    blueprint: Callable[..., Blueprint], pools: Pools, tmp_path: Path
) -> None:
    heard = _Heard()
    trained = train(blueprint(), pools, Run(report=heard))
    lost = [sum(_bad(pools.training, 3, 3, 3, 6 * step + one) for one in range(6)) for step in range(12)]
    expected = [sum(lost[start : start + 4]) for start in (0, 4, 8)]
    assert min(expected) > 0
    assert [one.diverged for one in heard.standings] == expected
    assert heard.counts[-1] == expected[-1]
    assert all(torch.isfinite(one).all() for one in trained.learner.state_dict().values())
    log = Log(tmp_path, trained.history)
    log.validated(trained.history[-1])
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["diverged"] for row in rows] == [*expected, expected[-1]]


def test_a_run_without_losses_does_not_speak_of_them(blueprint: Callable[..., Blueprint], pools: Pools) -> None:
    heard = _Heard()
    train(blueprint(), Pools(pools.validation, pools.validation), Run(report=heard))
    assert heard.counts == []
    assert len(heard.standings) == 3
    assert all("diverged" not in one.as_dict() for one in heard.standings)


def test_a_stopped_run_with_losses_goes_on_to_the_same_weights_and_counts(
    blueprint: Callable[..., Blueprint], pools: Pools, tmp_path: Path
) -> None:
    whole = train(blueprint(), pools, Run())
    sign = StopSign()
    with pytest.raises(Stopped):
        train(blueprint(), pools, Run(folder=tmp_path, sign=sign, report=_Heard(sign)))
    run = Run(folder=tmp_path)
    state = stored_state(blueprint(), pools, run)
    assert state is not None
    assert state.left_out
    assert all(one.diverged for one in state.history)
    again = train(blueprint(), pools, run, state)
    assert again.losses == whole.losses
    assert all(torch.equal(one, whole.learner.state_dict()[name]) for name, one in again.learner.state_dict().items())
    assert [one.as_dict()["diverged"] for one in again.history] == [one.as_dict()["diverged"] for one in whole.history]


def test_where_all_episodes_diverge_the_run_ends_after_ten_steps_and_names_the_rate(
    blueprint: Callable[..., Blueprint],
) -> None:
    bad = _vectors(bad=8, classes=8)
    with pytest.raises(Diverged, match=r"last 10 steps, .*\(60\) .*Lower learning_rate in the learner's settings"):
        train(blueprint(), Pools(bad, bad), Run())


def test_where_training_itself_leads_too_far_the_optimisers_rate_is_named_too(
    blueprint: Callable[..., Blueprint], pools: Pools
) -> None:
    plan = blueprint()
    stage = replace(plan.recipe.stages[0], optimiser=Optimiser(cycles=(12,), learning_rate=1e38, kind="sgd"))
    with pytest.raises(Diverged, match="optimiser's learning_rate"):
        train(Blueprint(replace(plan.recipe, stages=(stage,))), pools, Run())


@pytest.mark.parametrize(("earlier", "ends"), [(2, True), (1, False)], ids=["two of three", "one of three"])
def test_more_than_half_of_the_episodes_of_100_steps_end_the_run_also_after_a_stop(
    earlier: int, ends: bool, blueprint: Callable[..., Blueprint], pools: Pools
) -> None:
    """Of the first 75 steps so many episodes of three diverged: with one more they are half of 300, or a quarter."""
    plan = blueprint(meta_batch=3)
    stage = replace(plan.recipe.stages[0], optimiser=Optimiser(cycles=(90,), learning_rate=0.01))
    plan = Blueprint(replace(plan.recipe, stages=(stage,)))
    state = RunState(digest_of(plan.recipe, pools.training, pools.validation), step=75, losses=[1.0] * 75)
    state.left_out = [[step, earlier] for step in range(1, 76)]
    if ends:
        with pytest.raises(Diverged, match=r"more than half \(15\d\).*Lower learning_rate in the learner's settings"):
            train(plan, pools, Run(), state)
    else:
        assert len(train(plan, pools, Run(), state).losses) == 90


def test_what_diverged_long_ago_is_forgotten(blueprint: Callable[..., Blueprint], pools: Pools) -> None:
    plan = blueprint(meta_batch=3)
    stage = replace(plan.recipe.stages[0], optimiser=Optimiser(cycles=(190,), learning_rate=0.01))
    plan = Blueprint(replace(plan.recipe, stages=(stage,)))
    state = RunState(digest_of(plan.recipe, pools.training, pools.validation), step=175, losses=[1.0] * 175)
    state.left_out = [[step, 2] for step in range(1, 76)]
    trained = train(plan, pools, Run(), state)
    assert len(trained.losses) == 190
    assert all(step > 90 for step, _ in state.left_out)


@pytest.mark.parametrize("bad", [0, 2, 8])
def test_an_episode_that_diverges_is_judged_as_chance(bad: int) -> None:
    learner = learners.build("maml", backbones.build("identity", {}), {"steps": 3})
    pool, judging = _vectors(bad, classes=8), Judging(way=4, shot=1, episodes=40, queries=2, seed=5)
    lost = [_bad(pool, 4, 3, 5, number) for number in range(40)]
    assert (not any(lost)) if bad == 0 else sum(lost) > 10
    accuracy = evaluate(learner, pool, judging)
    if bad == 8:
        assert (accuracy.mean, accuracy.interval_95) == (0.25, 0.0)
    else:
        whole = evaluate(learner, _vectors(0, classes=8), judging).mean
        assert 0.25 < accuracy.mean <= whole
