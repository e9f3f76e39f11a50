"""Row 7: seconds from the start of the process to /readyz with all bundled backbones.

The goal is that of a start on a folder that has been served from before. The first start on a machine also exports the
backbones and finds out what runs them fastest; it has a row without a goal. The files of the weights are in the memory
of the system: after a boot they are read from the disk, too. Our code is compiled beforehand, as
pip does when it installs.
"""

import compileall
import tempfile
from pathlib import Path
from typing import Final

from benchmarks.pipe import ROOT
from benchmarks.rounds import Scope, median_row, tell
from benchmarks.served import serving
from benchmarks.table import Row

GOAL_S: Final = 5.0


def measure(scope: Scope) -> list[Row]:
    """First starts and later ones."""
    compileall.compile_dir(ROOT / "app", quiet=1)
    first: list[float] = []
    again: list[float] = []
    first_cpu: list[float] = []
    again_cpu: list[float] = []
    memory: list[float] = []
    backbones = 0
    for _ in range(scope.rounds):
        with tempfile.TemporaryDirectory(prefix="imprint-bench-") as scratch:
            for found, found_cpu in ((first, first_cpu), (again, again_cpu)):
                with serving({"device": scope.device}, folder=Path(scratch)) as server:
                    found.append(server.started_s)
                    found_cpu.append(server.usage().cpu_s)
                    backbones = len(server.client.get("/v1/backbones").json()["backbones"])
                    memory.append(server.usage().resident_bytes / 2**20)
        tell(
            f"start: first {first[-1]:.2f} s ({first_cpu[-1]:.2f} of the CPU), "
            f"again {again[-1]:.2f} s ({again_cpu[-1]:.2f})"
        )
    note = f"{backbones} backbones"
    return [
        median_row("7 start to /readyz", again, "s", GOAL_S if scope.device == "cpu" else None, "lower", note),
        median_row("  seconds of the CPU that it takes", again_cpu, "s", better="lower"),
        median_row("  the first start on an empty data folder", first, "s", better="lower", note=note),
        median_row("  seconds of the CPU that the first takes", first_cpu, "s", better="lower"),
        median_row("  resident memory then", memory, "MiB", better="lower"),
    ]
