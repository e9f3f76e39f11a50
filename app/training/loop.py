"""The loop over the steps of one stage: losses fetched, validations made, the best weights and the state kept."""

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, final

import torch
from torch import Tensor

from app.core.errors import Invalid
from app.learners._base import Learner
from app.training.ema import averaged
from app.training.evaluate import Accuracy, evaluate
from app.training.objective import EpisodesObjective, Mode, Objective
from app.training.outer import OuterLoop, can_vmap, fastest_mode
from app.training.parallel import ALONE, Ranks
from app.training.progress import Progress
from app.training.recipe import Stage, Validation
from app.training.report import Report
from app.training.resume import RunState, Weights, fill_optimiser, optimiser_slots, save_state
from app.training.sampler import Pool
from app.training.stopping import Stopped, StopSign
from app.training.workers import can_work

_FETCH_EVERY_S: Final = 0.5
_LAST_STEPS: Final = 100
"""Where more than half of the episodes of so many steps diverged, a run ends."""
_FIRST_STEPS: Final = 10
"""Before so many steps it does not: too few to judge by."""


class Diverged(Invalid):
    """A loss that is no number, or an inner loop that diverged too often."""

    code = "diverged"
    title = "The training diverged"


@dataclass(frozen=True)
class Run:
    """What a run is given beyond its recipe: where it computes, where it saves, whom it tells.

    Without a `folder` nothing is saved. `sign` says when to stop.
    """

    ranks: Ranks = ALONE
    folder: Path | None = None
    save_every_s: float = 300.0
    report: Report = field(default_factory=Report)
    sign: StopSign = field(default_factory=StopSign)


@final
class StageLoop:
    """One stage of a run. Its state is in `state` whenever that is saved; it starts from what it finds there."""

    def __init__(
        self, objective: Objective, judge: Learner[Any], validation: tuple[Validation, Pool], state: RunState, run: Run
    ) -> None:
        self.objective, self.judge, self.state, self.run = objective, judge, state, run
        self.stage: Stage = objective.stage
        self.validation, self.pool = validation
        self.every_steps = self.stage.every_steps or self.validation.every_steps
        if state.weights:
            objective.load(state.weights)
        if isinstance(objective, EpisodesObjective):
            objective.mode = self._mode(objective)
        self.outer = OuterLoop(objective, self.stage.optimiser)
        if state.groups:
            fill_optimiser(self.outer.optimiser, state.slots, state.groups)
        if self.outer.average is not None and state.average:
            self.outer.average.load(state.average, state.average_steps)
        self._waiting: list[Tensor] = []
        self._since_s = self._fetched_s = self._saved_s = time.monotonic()
        self._speed_s, self._speed_steps = 0.0, 0

    def train(self) -> Weights:
        """Take all steps that are left; returns the weights that go on, on the CPU.

        Raises: `Stopped`, with the state saved; `Diverged`; `ValueError` for pools too small for the episodes.
        """
        steps, state = self.stage.optimiser.steps, self.state
        self.run.report.begin(self.stage.kind, state.step, steps)
        while state.step < steps:
            started_s = time.monotonic()
            self._waiting.append(self.outer.step(state.step))
            state.step += 1
            self._count(self.outer.left_out)
            self._speed_steps += 1
            self._speed_s += time.monotonic() - started_s
            if state.step % self.every_steps == 0 or state.step == steps:
                self._validate()
            self._tend()
        return state.best if self.stage.keep == "best" else self._kept()

    def snapshot(self) -> None:
        """Bring the state up to date: weights, optimiser, average, time."""
        state, now_s = self.state, time.monotonic()
        state.elapsed_s, self._since_s = state.elapsed_s + now_s - self._since_s, now_s
        state.weights = dict(self.objective.weights())
        state.slots, state.groups = optimiser_slots(self.outer.optimiser)
        if self.outer.average is not None:
            state.average, state.average_steps = dict(self.outer.average.weights), self.outer.average.steps

    def _mode(self, objective: EpisodesObjective) -> Mode:
        """How gradients of a step are summed: as told, as before an interruption, or what is faster here."""
        wanted = self.state.mode or objective.plan.accumulate
        if wanted == "auto":
            wanted = "loop"
            if can_vmap(objective) or can_work(objective):
                times = fastest_mode(objective)
                wanted = self.run.ranks.leaders(min(times, key=lambda mode: times[mode]))
                took = ", ".join(f"{mode} {1000 * seconds:.0f} ms" for mode, seconds in times.items())
                self.run.report.say(f"accumulating by {wanted}: a step takes {took}")
        self.state.mode = wanted
        if wanted == "workers":
            return "workers" if can_work(objective) else "loop"
        return "vmap" if wanted == "vmap" else "loop"

    def _tend(self) -> None:
        """Between two steps: fetch losses, save, stop; all ranks decide alike."""
        now_s, ranks = time.monotonic(), self.run.ranks
        due = ranks.leads and self.run.folder is not None and now_s - self._saved_s >= self.run.save_every_s
        stale = ranks.leads and now_s - self._fetched_s >= _FETCH_EVERY_S
        stop, save, fetch = ranks.any(self.run.sign.signum != 0, due, stale)
        if stop or save or fetch:
            self._fetch()
        if stop or save:
            self.save()
        if stop:
            raise Stopped(self.run.sign.signum or 15)

    def save(self) -> None:
        """Put the state on disk."""
        self.snapshot()
        self._saved_s = time.monotonic()
        if self.run.ranks.leads and self.run.folder is not None:
            save_state(self.run.folder, self.state)

    def _count(self, left_out: int) -> None:
        """Note how many episodes of a step diverged. Raises: `Diverged` where they are too many of late."""
        if not left_out:
            return
        state = self.state
        state.left_out.append([state.step, left_out])
        lately = sum(count for step, count in state.left_out if step > state.step - _LAST_STEPS)
        steps = min(state.step, _LAST_STEPS)
        if steps < _FIRST_STEPS or 2 * lately <= steps * self.objective.per_step:
            return
        raise Diverged(
            f"Of the episodes of the last {steps} steps, more than half ({lately}) diverged by step {state.step} of "
            f"the stage {self.stage.kind!r}. Lower learning_rate in the learner's settings, or training_steps; where "
            "it went well until training moved the weights, the optimiser's learning_rate."
        )

    def _left_out(self) -> int:
        """How many episodes diverged since the last validation."""
        since = max((one.step for one in self.state.history if one.stage == self.state.stage), default=0)
        return sum(count for step, count in self.state.left_out if step > since)

    def _tell_left_out(self) -> None:
        if self._left_out():
            self.run.report.left_out(self._left_out())

    def _fetch(self) -> None:
        """Fetch the losses of the last steps from the device. Raises: `Diverged`."""
        if not self._waiting:
            return
        losses = (self.run.ranks.sum_(torch.stack(self._waiting).double()) / self.run.ranks.world).tolist()
        self._waiting.clear()
        self._fetched_s = time.monotonic()
        self.state.losses += losses
        for back, loss in enumerate(reversed(losses)):
            if not math.isfinite(loss):
                raise Diverged(
                    f"The loss of step {self.state.step - back} of the stage {self.stage.kind!r} is {loss}. "
                    "Lower learning_rate, or set clip_norm."
                )
        self._tell_left_out()
        self.run.report.step(self.state.step, sum(losses) / len(losses), self._per_second(), self.objective.unit)

    def _per_second(self) -> float:
        return self._speed_steps * self.objective.per_step / max(self._speed_s, 1e-9)

    def _validate(self) -> None:
        """Judge the weights, or their average, and keep them where they are the best so far."""
        self._fetch()
        state, here = self.state, [one for one in self.state.history if one.stage == self.state.stage]
        steps = state.step - (here[-1].step if here else 0)
        with averaged(self.objective, self.outer.average):
            judged = self._judged()
            standing = Progress(
                stage=state.stage,
                kind=self.stage.kind,
                step=state.step,
                steps=self.stage.optimiser.steps,
                loss=sum(state.losses[-steps:]) / steps,
                validation=judged,
                learning_rate=float(self.outer.optimiser.param_groups[0]["lr"]),
                elapsed_s=state.elapsed_s + time.monotonic() - self._since_s,
                per_second=self._per_second(),
                unit=self.objective.unit,
                diverged=self._left_out(),
            )
            if state.best_progress is None or judged.mean >= state.best_progress.validation.mean:
                state.best_progress, state.best = standing, _copied(self.objective.weights())
        self._tell_left_out()
        state.history.append(standing)
        state.left_out = [one for one in state.left_out if one[0] > state.step - _LAST_STEPS]
        self._speed_s, self._speed_steps = 0.0, 0
        self.run.report.validated(standing)

    def _judged(self) -> Accuracy:
        frozen = isinstance(self.objective, EpisodesObjective) and self.objective.frozen
        ranks = self.run.ranks
        return evaluate(self.judge, self.pool, self.validation.judging, embedded=frozen, ranks=ranks)

    def _kept(self) -> Weights:
        with averaged(self.objective, self.outer.average):
            return _copied(self.objective.weights())


def _copied(weights: Weights) -> Weights:
    """By value, on the CPU: training goes on without changing it."""
    return {name: one.detach().to("cpu", copy=True) for name, one in weights.items()}
