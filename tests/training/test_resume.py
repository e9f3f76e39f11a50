import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from app.checkpoints.load import load, scan
from app.training.build import Blueprint
from app.training.loop import Run
from app.training.recipe import Named, Recipe
from app.training.report import Lines, Report
from app.training.resume import STATE_FILE, OtherRun, RunState, digest_of, load_state, save_state
from app.training.stopping import Stopped, StopSign, listening
from app.training.train import Pools, stored_state, train
from app.training.train_command import Options, main

RECIPE = """
name = "tiny"
seed = 5
[data]
name = "arrays"
settings = { val_share = 0.3, test_share = 0.3 }
[backbone]
name = "conv4"
settings = { filters = 8 }
[learner]
name = "anil"
settings = { learned_rates = true }
[[stages]]
kind = "classify"
classes = { batch = 20 }
optimiser = { cycles = [15], learning_rate = 0.05, kind = "sgd", weight_decay = 5e-4, ema_decay = 0.9 }
[[stages]]
kind = "episodes"
episodes = { way = 4, shot = 1, queries = 3, meta_batch = 2 }
augmentation = { shift_pixels = 2.0 }
optimiser = { cycles = [30], learning_rate = 0.01, ema_decay = 0.9 }
[validation]
every_steps = 7
judging = { way = 4, shot = 1, episodes = 10, queries = 3 }
[[tests]]
way = 4
shot = 1
episodes = 10
queries = 3
[card]
preprocessing = { height = 28, width = 28, channels = 1, resize = "stretch" }
"""
STEPS = 45


@pytest.fixture
def told(on_disk: Callable[[str], Path]) -> Options:
    """A recipe and data on disk."""
    folder = on_disk(RECIPE)
    return Options(str(folder / "tiny.toml"), folder / "data", folder / "out", device="cpu", threads=1)


def _start(told: Options, *more: str) -> subprocess.Popen[bytes]:
    command = [
        "train",
        told.recipe,
        "--data",
        str(told.data),
        "--out",
        str(told.out),
        "--threads",
        "1",
        "--device",
        "cpu",
    ]
    return subprocess.Popen(
        [sys.executable, "-m", "app", *command, *more], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def _stored(out: Path) -> tuple[dict[str, Any], torch.Tensor]:
    """What a state file says, and the losses in it.

    Of a copy: `safe_open` opens a path twice, and a running training puts another file there in between.
    """
    from safetensors import safe_open

    copy = shutil.copyfile(out / "tiny" / "run" / STATE_FILE, out / "copy.safetensors")
    with safe_open(copy, framework="pt") as file:
        return json.loads(file.metadata()["state"]), file.get_tensor("losses")


def _wait_for(out: Path, steps: int, run: subprocess.Popen[bytes]) -> None:
    """Until so many losses are on disk."""
    while not (out / "tiny" / "run" / STATE_FILE).is_file() or len(_stored(out)[1]) < steps:
        assert run.poll() is None, "it ended too soon"
        time.sleep(0.01)


@pytest.mark.usefixtures("undrawn")
def test_a_run_killed_at_any_moment_goes_on_as_if_nothing_had_been(told: Options, tmp_path: Path) -> None:
    """Killed in its first stage, then in its second."""
    assert main(told) == 0
    killed = replace(told, out=tmp_path / "killed")
    for steps in (8, 20):
        run = _start(killed, "--save-minutes", "0")
        _wait_for(killed.out, steps, run)
        run.kill()
        run.communicate()
        assert steps <= len(_stored(killed.out)[1]) < STEPS
    assert main(killed) == 0
    (whole, expected), (again, found) = _stored(told.out), _stored(killed.out)
    assert len(found) == STEPS
    assert torch.equal(found, expected)
    timings = ("elapsed_s", "per_second")
    for one, other in zip(again["history"], whole["history"], strict=True):
        assert {name: one[name] for name in one if name not in timings} == {
            name: other[name] for name in other if name not in timings
        }
    one, other = (load(scan([out])["tiny"]) for out in (told.out, killed.out))
    assert one.card.sha256 == other.card.sha256
    assert one.card.learner_weights == other.card.learner_weights
    assert [score["accuracy"] for score in one.card.scores] == [score["accuracy"] for score in other.card.scores]


def test_sigterm_saves_the_state_and_ends_the_run_with_its_status(told: Options) -> None:
    """The state is saved because of the signal: by the clock it would be in an hour."""
    Path(told.recipe).write_text(RECIPE.replace("cycles = [30]", "cycles = [100000]"))
    run = _start(told, "--save-minutes", "60")
    _wait_for(told.out, 15, run)  # the end of the first stage is saved
    run.send_signal(signal.SIGTERM)
    said = run.communicate()[1].decode()
    assert run.returncode == 143
    assert "the same command goes on" in said
    state, losses = _stored(told.out)
    assert state["stage"] == 1
    assert len(losses) == 15 + state["step"]


def test_ctrl_c_saves_the_state_and_ends_the_run_with_its_status(
    told: Options, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Lines, "validated", lambda lines, standing: signal.raise_signal(signal.SIGINT))
    assert main(told) == 130
    assert "SIGINT; the state is saved" in capsys.readouterr().err
    assert len(_stored(told.out)[1]) == 7


class _StopAfter(Report):
    def __init__(self, sign: StopSign, validations: int) -> None:
        self.sign, self.left = sign, validations

    def validated(self, standing: Any) -> None:
        self.left -= 1
        if not self.left:
            self.sign.signum = signal.SIGTERM


def test_a_stopped_run_goes_on_to_the_same_weights(pools: Pools, recipe: Recipe, tmp_path: Path) -> None:
    blueprint = Blueprint(replace(recipe, learner=Named("anil", {"learning_rate": 0.5})))
    whole = train(blueprint, pools, Run())
    sign = StopSign()
    with pytest.raises(Stopped):
        train(blueprint, pools, Run(folder=tmp_path, sign=sign, report=_StopAfter(sign, 1)))
    run = Run(folder=tmp_path)
    state = stored_state(blueprint, pools, run)
    assert state is not None
    assert (state.step, len(state.losses)) == (6, 6)
    spent_s = state.elapsed_s
    resumed = train(blueprint, pools, run, state)
    assert resumed.losses == whole.losses
    assert all(torch.equal(one, whole.learner.state_dict()[name]) for name, one in resumed.learner.state_dict().items())
    assert resumed.wall_clock_s > spent_s > 0


def test_a_run_that_is_done_is_not_trained_again(pools: Pools, recipe: Recipe, tmp_path: Path) -> None:
    run, blueprint = Run(folder=tmp_path), Blueprint(recipe)
    first = train(blueprint, pools, run)
    again = train(blueprint, pools, run, stored_state(blueprint, pools, run))
    assert (again.losses, again.best) == (first.losses, first.best)


def test_a_state_of_another_recipe_or_other_data_is_refused(pools: Pools, recipe: Recipe, tmp_path: Path) -> None:
    save_state(tmp_path, RunState(digest_of(recipe, pools.training)))
    assert load_state(tmp_path, digest_of(recipe, pools.training)) is not None
    for other in (digest_of(replace(recipe, seed=9), pools.training), digest_of(recipe, pools.validation)):
        with pytest.raises(OtherRun, match="--fresh"):
            load_state(tmp_path, other)


def test_what_a_run_is_judged_by_afterwards_may_change(pools: Pools, recipe: Recipe) -> None:
    other = replace(recipe, name="renamed", tests=(), card=replace(recipe.card, description="New words."))
    assert digest_of(other, pools.training) == digest_of(recipe, pools.training)


def test_a_damaged_state_is_refused_and_none_is_none(tmp_path: Path) -> None:
    assert load_state(tmp_path, "digest") is None
    save_state(tmp_path, RunState("digest", weights={"one": torch.ones(100)}))
    path = tmp_path / STATE_FILE
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(OtherRun, match="cannot be read"):
        load_state(tmp_path, "digest")


def test_a_state_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    saved = RunState("digest", 1, 7, 3.5, "vmap", 4, [{"lr": 0.1 + 0.2, "params": [0]}], [0.1, 1 / 3])
    saved.weights = {"a.b": torch.randn(2, 3).to(memory_format=torch.contiguous_format), "n": torch.tensor(3)}
    saved.slots = {"0/exp_avg": torch.randn(3, dtype=torch.float64)}
    save_state(tmp_path, saved)
    found = load_state(tmp_path, "digest")
    assert found is not None
    for name, value in vars(saved).items():
        if name in {"weights", "slots"}:
            assert all(torch.equal(one, getattr(found, name)[key]) for key, one in value.items())
        else:
            assert getattr(found, name) == value


def test_the_second_signal_acts_as_it_did_before() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with listening() as sign:
        assert sign.signum == 0
        signal.raise_signal(signal.SIGTERM)
        assert sign.signum == signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) == before
    with listening():
        pass
    assert signal.getsignal(signal.SIGTERM) == before
