"""Where a server's CPU seconds go, by its threads (Linux), and what it counts itself (anywhere)."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

LOOP: Final = "loop"
DECODE: Final = "imprint-decode"
STORE: Final = "imprint-store"
OTHER: Final = "other"
"""The device thread, and what backbones start of their own: threads of OpenMP, ONNX Runtime, OpenVINO."""


@dataclass(frozen=True)
class Counted:
    """Seconds until now. `threads` is empty where the system does not tell."""

    threads: Mapping[str, float]
    idle_s: float | None
    """Of all cores together."""
    backbone_s: float
    heads_s: float


def thread_seconds(pid: int, proc: Path = Path("/proc")) -> dict[str, float]:
    """CPU seconds by kind of thread. The first thread is that of the event loop; others go by their names."""
    found: dict[str, float] = {}
    try:
        folders = list((proc / str(pid) / "task").iterdir())
    except OSError:
        return found
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    for folder in folders:
        try:
            line = (folder / "stat").read_text()
        except OSError:  # it has ended meanwhile
            continue
        name, ticks = parsed(line)
        kind = LOOP if folder.name == str(pid) else next((one for one in (DECODE, STORE) if name == one), OTHER)
        found[kind] = found.get(kind, 0.0) + ticks * tick_s
    return found


def parsed(line: str) -> tuple[str, int]:
    """Name and CPU ticks in a line of /proc/PID/task/TID/stat. The name may hold spaces and brackets."""
    name = line[line.index("(") + 1 : line.rindex(")")]
    user, system = line[line.rindex(")") + 2 :].split()[11:13]
    return name, int(user) + int(system)


def idle_seconds(proc: Path = Path("/proc")) -> float | None:
    """Seconds that the machine's cores stood idle, of all of them together."""
    try:
        idle, waiting = (proc / "stat").read_text().splitlines()[0].split()[4:6]
    except (OSError, ValueError, IndexError):
        return None
    return (int(idle) + int(waiting)) / os.sysconf("SC_CLK_TCK")


def counted(threads: Mapping[str, float], idle_s: float | None, metrics: str, backbone: str) -> Counted:
    """What the system (`thread_seconds`, `idle_seconds`) and the server (the text of /metrics) say."""
    return Counted(
        threads,
        idle_s,
        _sample(metrics, "imprint_batch_seconds_total", backbone),
        _sample(metrics, "imprint_head_seconds_total", backbone),
    )


def _sample(metrics: str, name: str, backbone: str) -> float:
    return sum(
        sample.value
        for family in text_string_to_metric_families(metrics)
        for sample in family.samples
        if sample.name == name and sample.labels.get("backbone") == backbone
    )
