"""Row 7: seconds from the start of the process to /readyz with all bundled backbones.

The goal is that of a start on a folder that has been served from before. The first start on a machine also exports the
backbones and finds out what runs them fastest; it has a row without a goal. The files of the weights are in the memory
of the system: after a boot they are read from the disk, too.
"""

import tempfile
from pathlib import Path
from typing import Final

from benchmarks.rounds import Scope, median_row, tell
from benchmarks.served import serving
from benchmarks.table import Row

GOAL_S: Final = 5.0


def measure(scope: Scope) -> list[Row]:
    """First starts and later ones."""
    first: list[float] = []
    again: list[float] = []
    memory: list[float] = []
    backbones = 0
    for _ in range(scope.rounds):
        with tempfile.TemporaryDirectory(prefix="imprint-bench-") as scratch:
            for found in (first, again):
                with serving({"device": scope.device}, folder=Path(scratch)) as server:
                    found.append(server.started_s)
                    backbones = len(server.client.get("/v1/backbones").json()["backbones"])
                    memory.append(server.usage().resident_bytes / 2**20)
        tell(f"start: first {first[-1]:.2f} s, again {again[-1]:.2f} s")
    note = f"{backbones} backbones"
    return [
        median_row("7 start to /readyz", again, "s", GOAL_S if scope.device == "cpu" else None, "lower", note),
        median_row("  the first start on an empty data folder", first, "s", better="lower", note=note),
        median_row("  resident memory then", memory, "MiB", better="lower"),
    ]
