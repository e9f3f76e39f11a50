"""One form for every benchmark's outcome: rows of name, value, unit, goal, better."""

import argparse
import json
import math
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One measured number. `interval_95` is half the width of its 95 % interval; `columns` are more, by heading."""

    name: str
    value: float
    unit: str
    goal: float | None = None
    better: Literal["higher", "lower"] = "higher"
    interval_95: float | None = None
    note: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """Whether the goal is met."""
        if self.goal is None:
            return ""
        met = self.value >= self.goal if self.better == "higher" else self.value <= self.goal
        return "met" if met else "MISSED"


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser with what every benchmark takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    return parser


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean of independent runs and half its 95 % interval (Student's t)."""
    count = len(values)
    if count < 2:
        return statistics.fmean(values), math.nan
    from scipy.stats import t  # noqa: PLC0415 - comes with scikit-learn, which only benchmarks need

    half = float(t.ppf(0.975, count - 1)) * statistics.stdev(values) / math.sqrt(count)
    return statistics.fmean(values), half


def machine() -> str:
    """What the numbers were taken on."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        name = next(
            (x.split(":")[1].strip() for x in info.read_text().splitlines() if x.startswith("model name")), name
        )
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    return f"{name}, {torch.get_num_threads()} threads, {device}, {versions}"


def show(title: str, rows: Sequence[Row], json_path: Path | None = None) -> None:
    """Print the table; write the JSON."""
    table = Table(title=f"{title}\n{machine()}", title_justify="left")
    console = Console(width=200 if any(row.columns for row in rows) else 160, highlight=False)
    more = list(dict.fromkeys(heading for row in rows for heading in row.columns))
    for heading in ("measure", "value", "+-", "unit", "goal", "", *more, "note"):
        table.add_column(heading, justify="right" if heading in ("value", "+-", "goal") else "left")
    for row in rows:
        sign = ">=" if row.better == "higher" else "<="
        table.add_row(
            row.name,
            f"{row.value:.4g}",
            "" if row.interval_95 is None else f"{row.interval_95:.2g}",
            row.unit,
            "" if row.goal is None else f"{sign} {row.goal:g}",
            row.verdict,
            *(row.columns.get(heading, "") for heading in more),
            row.note,
        )
    console.print(table)
    if json_path:
        json_path.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
