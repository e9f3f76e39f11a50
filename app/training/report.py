"""What a run says of itself while it goes: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Sequence
from typing import final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from app.training.progress import Progress as Standing


class Report:
    """Hears how a run goes; this one keeps it to itself."""

    def say(self, line: str) -> None:
        """A sentence."""

    def begin(self, kind: str, done: int, steps: int) -> None:
        """A stage begins, or goes on after so many steps."""

    def step(self, done: int, loss: float, per_second: float, unit: str) -> None:
        """So many steps of the stage are done. `loss` is that of the last ones, on average."""

    def left_out(self, episodes: int) -> None:
        """So many episodes since the last validation diverged. Told, where there were any, before what follows it."""

    def validated(self, standing: Standing) -> None:
        """A validation."""

    def end(self) -> None:
        """The run is over, or was stopped."""


@final
class Several(Report):
    """Tells several reports."""

    def __init__(self, reports: Sequence[Report]) -> None:
        self.reports = reports

    def say(self, line: str) -> None:
        """Pass it on."""
        for one in self.reports:
            one.say(line)

    def begin(self, kind: str, done: int, steps: int) -> None:
        """Pass it on."""
        for one in self.reports:
            one.begin(kind, done, steps)

    def step(self, done: int, loss: float, per_second: float, unit: str) -> None:
        """Pass it on."""
        for one in self.reports:
            one.step(done, loss, per_second, unit)

    def left_out(self, episodes: int) -> None:
        """Pass it on."""
        for one in self.reports:
            one.left_out(episodes)

    def validated(self, standing: Standing) -> None:
        """Pass it on."""
        for one in self.reports:
            one.validated(standing)

    def end(self) -> None:
        """Pass it on."""
        for one in self.reports:
            one.end()


@final
class Lines(Report):
    """A line on standard output for each validation, and one every `every_s` seconds in between."""

    def __init__(self, every_s: float = 30.0) -> None:
        self._every_s = every_s
        self._last_s = time.monotonic()
        self._kind, self._first, self._steps = "", 0, 0
        self._began_s = 0.0
        self._diverged = ""

    def say(self, line: str) -> None:
        """Write it."""
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    def begin(self, kind: str, done: int, steps: int) -> None:
        """Name the stage."""
        self._kind, self._first, self._steps, self._began_s = kind, done, steps, time.monotonic()
        self._diverged = ""
        self.say(f"{kind}: {steps} steps" + (f", going on after step {done}" if done else ""))

    def step(self, done: int, loss: float, per_second: float, unit: str) -> None:
        """Write a line, now and then."""
        if time.monotonic() - self._last_s < self._every_s or done <= self._first:
            return
        self._last_s = time.monotonic()
        left_s = (self._last_s - self._began_s) / (done - self._first) * (self._steps - done)
        speed = f"{per_second:.1f} {unit}/s, {duration(left_s)} left"
        self.say(f"{self._kind} {done}/{self._steps} loss {loss:.4f}, {speed}{self._diverged}")

    def left_out(self, episodes: int) -> None:
        """Keep it for the next line."""
        self._diverged = told_diverged(episodes)

    def validated(self, standing: Standing) -> None:
        """Write a line."""
        self._last_s = time.monotonic()
        self.say(
            f"{standing.kind} {standing.step}/{standing.steps} loss {standing.loss:.4f} validation "
            f"{standing.validation}, {standing.per_second:.1f} {standing.unit}/s, after {duration(standing.elapsed_s)}"
            f"{self._diverged}"
        )
        self._diverged = ""


@final
class Bar(Report):
    """A progress bar, with the loss, the last validation, the speed and the time left."""

    def __init__(self, console: Console) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TextColumn("validation {task.fields[judged]}"),
            TextColumn("{task.fields[speed]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self._diverged = ""
        self._row = self._bar.add_task("", visible=False, loss="-", judged="-", speed="-")
        self._bar.start()

    def say(self, line: str) -> None:
        """Write it above the bar."""
        self._bar.console.print(line, highlight=False, markup=False)

    def begin(self, kind: str, done: int, steps: int) -> None:
        """Show the stage."""
        self._diverged = ""
        self._bar.reset(self._row, description=kind, completed=done, total=steps, visible=True)

    def step(self, done: int, loss: float, per_second: float, unit: str) -> None:
        """Move the bar."""
        speed = f"{per_second:.1f} {unit}/s{self._diverged}"
        self._bar.update(self._row, completed=done, loss=f"{loss:.4f}", speed=speed)

    def left_out(self, episodes: int) -> None:
        """Keep it for beside the speed."""
        self._diverged = told_diverged(episodes)

    def validated(self, standing: Standing) -> None:
        """Show the accuracy, and keep a line of it."""
        self._bar.update(self._row, judged=str(standing.validation))
        said = f"{standing.kind} {standing.step}: loss {standing.loss:.4f}, validation {standing.validation}"
        self.say(said + self._diverged)
        self._diverged = ""

    def end(self) -> None:
        """Leave the terminal as it was."""
        self._bar.stop()


def console_report() -> Report:
    """A bar where standard output is a terminal, else lines."""
    console = Console()
    return Bar(console) if console.is_terminal else Lines()


def told_diverged(episodes: int) -> str:
    """The end of a line: ", 1 episode diverged"."""
    return f", {episodes} episode{'' if episodes == 1 else 's'} diverged"


def duration(seconds: float) -> str:
    """Seconds for people: "42 s", "3 min 20 s", "2 h 05 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
