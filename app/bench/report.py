"""What the operator reads, and what a file keeps."""

import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from app.bench.limits import Busy, verdict
from app.bench.load import Outcome


@dataclass(frozen=True)
class Result:
    """Of one backbone."""

    backbone: str
    executor: str
    learner: str
    adapt_s: float
    predict: Outcome
    busy: Busy
    record: Outcome
    record_busy: Busy
    more: dict[str, str]
    clients: int

    def sentences(self) -> list[str]:
        """What binds: answering, and recording what was answered."""
        found = [f"{self.backbone}: {verdict(self.busy, self.more)}"]
        if self.record.answered:
            found.append(f"{self.backbone}, recorded: {verdict(self.record_busy, self.more)}")
        return found

    def as_json(self) -> dict[str, object]:
        """For a file."""
        return {
            "backbone": self.backbone,
            "executor": self.executor,
            "learner": self.learner,
            "adapt_s": self.adapt_s,
            "clients": self.clients,
            "predict": _numbers(self.predict, self.busy),
            "record": _numbers(self.record, self.record_busy),
            "verdicts": self.sentences(),
        }


def _numbers(outcome: Outcome, busy: Busy) -> dict[str, object]:
    return {
        "predictions_a_second": outcome.rate,
        "p50_ms": _known(outcome.latency_ms(0.5)),
        "p99_ms": _known(outcome.latency_ms(0.99)),
        "failed": outcome.failed,
        "parts": [
            {**asdict(part), "each_ms": busy.each_ms(part), "occupancy": busy.own_occupancy(part)}
            for part in busy.parts
        ],
        "cores": busy.cores,
        "cores_idle": busy.idle,
        "cores_used_by_others": busy.others,
        "load_share_of_a_core": busy.own_share,
    }


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def show(console: Console, result: Result) -> None:
    """The numbers of one backbone, and where they come from."""
    title = f"{result.backbone} ({result.executor}, {result.learner}), {result.clients} clients"
    table = Table(title=title, title_justify="left")
    for heading in ("", "a second", "p50 ms", "p99 ms", "failed"):
        table.add_column(heading, justify="left" if not heading else "right")
    table.add_row("adapt 25 examples", f"{1 / result.adapt_s:.1f}", f"{1000 * result.adapt_s:.0f}", "", "")
    for name, one in (("predict", result.predict), ("predict and record", result.record)):
        times = (f"{one.latency_ms(share):.1f}" for share in (0.5, 0.99))
        table.add_row(name, f"{one.rate:.0f}", *times, str(one.failed))
    console.print(table)
    parts = Table("part", "ms a prediction", "busy", "of", box=None, padding=(0, 2))
    for busy in (result.busy, result.record_busy):
        for part in busy.parts:
            if busy is result.busy or part.name == "database":
                parts.add_row(
                    part.name, f"{busy.each_ms(part):.3f}", f"{100 * busy.own_occupancy(part):.0f} %", part.of
                )
    console.print(parts)
    if result.busy.server_cpu_s is None:
        console.print("CPU by thread is known on Linux alone: without it neither decoding nor HTTP is weighed.")


def write(path: Path, results: list[Result], device: str) -> None:
    """Keep the numbers."""
    found = {"cores": os.cpu_count(), "device": device, "backbones": [one.as_json() for one in results]}
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
