import io
import json
import math
from pathlib import Path

import pytest
from rich.console import Console
from tensorboardX.proto.event_pb2 import Event

from app.training import curves
from app.training.curves import Events, Log, draw_curves, missing_extras, scores_table
from app.training.evaluate import Accuracy
from app.training.progress import Progress, progress_of
from app.training.report import Bar, Lines, Several, console_report, duration


def _standing(step: int, stage: int = 0, kind: str = "episodes") -> Progress:
    return Progress(stage, kind, step, 20, 1.5 / step, Accuracy(0.5, 0.02, 100), 0.01, 3.0 * step, 12.5, "episodes")


def test_plain_lines_tell_the_loss_the_accuracy_the_speed_and_the_time_left(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = Lines(every_s=0.0)
    lines.begin("episodes", 0, 20)
    lines.step(5, 0.25, 12.5, "episodes")
    lines.validated(_standing(10))
    lines.say("done")
    first, second, third, last = capsys.readouterr().out.splitlines()
    assert first == "episodes: 20 steps"
    assert second.startswith("episodes 5/20 loss 0.2500, 12.5 episodes/s, ")
    assert second.endswith(" left")
    assert third == "episodes 10/20 loss 0.1500 validation 50.00 +- 2.00 %, 12.5 episodes/s, after 30 s"
    assert last == "done"


def test_a_line_tells_how_many_episodes_diverged_since_the_last_validation(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Several([Lines(every_s=0.0)])
    lines.begin("episodes", 0, 20)
    lines.left_out(1)
    lines.step(5, 0.25, 12.5, "episodes")
    lines.left_out(3)
    lines.validated(_standing(10))
    lines.step(15, 0.25, 12.5, "episodes")
    _, first, second, third = capsys.readouterr().out.splitlines()
    assert first.endswith(" left, 1 episode diverged")
    assert second.endswith(", after 30 s, 3 episodes diverged")
    assert third.endswith(" left")


def test_a_bar_tells_how_many_episodes_diverged() -> None:
    out = io.StringIO()
    bar = Bar(Console(file=out, force_terminal=True, width=180))
    bar.begin("episodes", 0, 20)
    bar.left_out(2)
    bar.step(10, 0.25, 12.5, "episodes")
    bar.validated(_standing(10))
    bar.end()
    said = out.getvalue()
    assert "12.5 episodes/s, 2 episodes diverged" in said
    assert "50.00 +- 2.00 %, 2 episodes diverged" in said


def test_lines_between_validations_are_few(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines(every_s=3600.0)
    lines.begin("episodes", 7, 20)
    for step in range(8, 20):
        lines.step(step, 1.0, 1.0, "episodes")
    assert capsys.readouterr().out == "episodes: 20 steps, going on after step 7\n"


def test_a_terminal_gets_a_bar_with_the_same_numbers() -> None:
    out = io.StringIO()
    bar = Bar(Console(file=out, force_terminal=True, width=160))
    bar.begin("classify", 0, 20)
    bar.step(10, 0.25, 12.5, "examples")
    bar.validated(_standing(10, kind="classify"))
    bar.say("[not markup]")
    bar.end()
    said = out.getvalue()
    for part in ("classify", "10/20", "loss 0.2500", "50.00 +- 2.00 %", "12.5 examples/s", "[not markup]"):
        assert part in said


def test_where_there_is_no_terminal_there_is_no_bar() -> None:
    assert isinstance(console_report(), Lines)


def test_the_log_has_a_line_for_each_validation_and_forgets_lost_steps(tmp_path: Path) -> None:
    log = Log(tmp_path, [])
    log.validated(_standing(10))
    log.validated(_standing(20))
    again = Log(tmp_path, [_standing(10)])  # resumed from a state that is older than the second line
    again.validated(_standing(15))
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [10, 15]
    assert progress_of(rows[1]) == _standing(15)


def test_events_can_be_read_by_tensorboards_format(tmp_path: Path) -> None:
    events = Events(tmp_path, offset=100)
    reports = Several([events])
    reports.begin("classify", 0, 20)
    reports.step(10, 0.25, 12.5, "examples")
    reports.begin("episodes", 0, 30)
    reports.validated(_standing(10))
    reports.end()
    (path,) = tmp_path.iterdir()
    seen = {}
    data = path.read_bytes()
    while data:  # records: length (8 bytes), its checksum (4), the event, its checksum (4)
        length = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + length])
        seen |= {value.tag: (event.step, value.simple_value) for value in event.summary.value}
        data = data[16 + length :]
    assert seen["loss"] == (110, 0.25)
    assert seen["validation/accuracy"] == (130, 0.5)
    assert {"examples_per_second", "validation/interval_95", "learning_rate"} <= set(seen)


def test_curves_are_drawn_of_a_run_of_several_stages(tmp_path: Path) -> None:
    history = [_standing(10), _standing(20), _standing(10, 1, "distill")]
    draw_curves(tmp_path / "curves.png", history, [1 / (1 + step) for step in range(30)], "tiny")
    draw_curves(tmp_path / "negative.png", history[:1], [-1.0, 2.0], "a loss below zero")
    for name in ("curves.png", "negative.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_missing_packages_are_told_with_what_installs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves.importlib.util, "find_spec", lambda name: None)
    assert "pip install 'imprint[train]'" in missing_extras()
    assert "TensorBoard" in missing_extras()
    monkeypatch.setattr(curves.importlib.util, "find_spec", lambda name: name)
    assert missing_extras() == ""


def test_the_table_of_scores_is_markdown_in_per_cent() -> None:
    row = {"dataset": "mine/test", "learner": "ridge", "way": 5, "shot": 1, "accuracy": 0.98765, "interval_95": 0.0021}
    lines = scores_table([row | {"episodes": 600}]).splitlines()
    assert lines[2] == "| mine/test | ridge | 5 | 1 | 98.77 | 0.21 | 600 |"
    assert len({line.count("|") for line in lines}) == 1


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "0 s"), (59.4, "59 s"), (200.0, "3 min 20 s"), (7500.0, "2 h 05 min"), (59.6, "1 min 00 s")],
)
def test_durations_are_for_people(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_the_smoothed_loss_is_the_mean_of_the_last_steps() -> None:
    losses = [float(step % 7) for step in range(90)]
    found = curves._smoothed(losses)
    assert found[0] == losses[0]
    assert math.isclose(found[-1], sum(losses[-3:]) / 3)
