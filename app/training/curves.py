"""What a run leaves in its folder to look at: the log, TensorBoard events, the curves, the table of scores."""

import importlib
import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, final

from app.training.progress import Progress
from app.training.report import Report
from app.training.resume import write_whole

LOG_FILE: Final = "log.jsonl"
CURVES_FILE: Final = "curves.png"
SCORES_FILE: Final = "scores.md"
_SMOOTH: Final = 30
"""The curve of the loss is smoothed over so small a part of the run: one in so many steps."""
_EXTRA: Final = {"tensorboardX": "TensorBoard events", "matplotlib": CURVES_FILE}


def missing_extras() -> str:
    """A sentence on what will not be drawn for want of packages; empty where all are there."""
    left_out = [what for package, what in _EXTRA.items() if importlib.util.find_spec(package) is None]
    if not left_out:
        return ""
    return f"No {' and no '.join(left_out)}: for them, pip install 'imprint[train]'. The numbers are in {LOG_FILE}."


@final
class Log(Report):
    """A JSON line for each validation. It starts with those of `history`: lines of lost steps go."""

    def __init__(self, folder: Path, history: Sequence[Progress]) -> None:
        self._path = folder / LOG_FILE
        write_whole(self._path, "".join(map(_line, history)).encode())

    def validated(self, standing: Progress) -> None:
        """Append it."""
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(_line(standing))


@final
class Events(Report):
    """TensorBoard events: loss, learning rate, speed, validation accuracy and its interval, by step of the run.

    `offset` are the steps of the stages that are done. After a resume, what was written of lost steps is hidden.
    """

    def __init__(self, folder: Path, offset: int) -> None:
        self._folder, self._offset, self._steps = folder, offset, 0
        self._writer: Any = None

    def begin(self, kind: str, done: int, steps: int) -> None:
        """Open the file, and count this stage's steps after those of the ones before."""
        del kind
        self._offset, self._steps = self._offset + self._steps, steps
        if self._writer is None:
            writer = importlib.import_module("tensorboardX").SummaryWriter
            self._writer = writer(str(self._folder), purge_step=self._offset + done)

    def step(self, done: int, loss: float, per_second: float, unit: str) -> None:
        """Loss and speed."""
        self._add(done, {"loss": loss, f"{unit}_per_second": per_second})

    def validated(self, standing: Progress) -> None:
        """Accuracy, interval, learning rate."""
        judged = standing.validation
        values = {"accuracy": judged.mean, "interval_95": judged.interval_95}
        self._add(standing.step, {f"validation/{name}": value for name, value in values.items()})
        self._add(standing.step, {"learning_rate": standing.learning_rate})

    def end(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()

    def _add(self, done: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, self._offset + done)


def draw_curves(path: Path, history: Sequence[Progress], losses: Sequence[float], title: str) -> None:
    """Draw the loss of each step and the validation accuracy with its interval. Needs matplotlib."""
    figure = importlib.import_module("matplotlib.figure").Figure(figsize=(8, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    above.set_title(title)
    above.plot(range(1, len(losses) + 1), losses, color="0.8", linewidth=0.5)
    smooth = _smoothed(losses)
    above.plot(range(1, len(smooth) + 1), smooth, linewidth=1.2)
    above.set_ylabel("loss")
    if losses and min(losses) > 0:
        above.set_yscale("log")
    start = 0
    for stage in sorted({one.stage for one in history}):
        rows = [one for one in history if one.stage == stage]
        steps = [start + one.step for one in rows]
        means, halves = ([100 * getattr(one.validation, name) for one in rows] for name in ("mean", "interval_95"))
        below.errorbar(steps, means, yerr=halves, marker=".", capsize=2, linewidth=1, label=rows[0].kind)
        start += rows[0].steps
    below.set_ylabel("validation accuracy, %")
    below.set_xlabel("step")
    below.legend(loc="lower right")
    for part in (above, below):
        part.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def scores_table(scores: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table of a card's `scores`: accuracy in per cent, with half the width of its 95 % interval."""
    lines = [
        "| data | learner | way | shot | accuracy, % | +- 95 % | episodes |",
        "| --- | --- | --: | --: | --: | --: | --: |",
    ]
    for row in scores:
        numbers = f"{100 * row['accuracy']:.2f} | {100 * row['interval_95']:.2f} | {row['episodes']}"
        lines.append(f"| {row['dataset']} | {row['learner']} | {row['way']} | {row['shot']} | {numbers} |")
    return "\n".join(lines) + "\n"


def _line(standing: Progress) -> str:
    return json.dumps(standing.as_dict()) + "\n"


def _smoothed(losses: Sequence[float]) -> list[float]:
    """The mean of the last steps, at each step."""
    window = max(1, len(losses) // _SMOOTH)
    found, total = [], 0.0
    for place, loss in enumerate(losses):
        total += loss - (losses[place - window] if place >= window else 0.0)
        found.append(total / min(place + 1, window))
    return found
