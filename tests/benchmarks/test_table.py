"""The form that every benchmark's outcome has."""

import json
import math
from pathlib import Path

import pytest

from benchmarks.table import Row, mean_interval, show


def test_the_table_shows_each_row_and_the_json_holds_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        Row("accuracy", 87.42, "%", goal=86.5, interval_95=0.97, note="card 87.42"),
        Row("adaptation", 9.0, "ms", goal=5.0, better="lower"),
    ]

    show("What was measured", rows, tmp_path / "rows.json")

    printed = capsys.readouterr().out
    assert all(part in printed for part in ("What was measured", "87.42", "0.97", ">= 86.5", "met", "MISSED"))
    written = json.loads((tmp_path / "rows.json").read_text())
    assert [Row(**row) for row in written] == rows
    assert {"name", "value", "unit", "goal", "better"} <= set(written[0])


def test_a_row_without_a_goal_has_no_verdict() -> None:
    assert Row("accuracy", 87.42, "%").verdict == ""


@pytest.mark.parametrize(("better", "value"), [("higher", 5.0), ("lower", 5.0)])
def test_reaching_a_goal_exactly_meets_it(better: str, value: float) -> None:
    assert Row("one", value, "ms", goal=5.0, better=better).verdict == "met"


def test_the_interval_is_students() -> None:
    mean, half = mean_interval([1.0, 2.0, 3.0])

    assert mean == 2.0
    assert half == pytest.approx(4.303 / math.sqrt(3), abs=1e-3)
