"""CPU seconds and memory of a process with all that it started, from /proc: Linux only."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Final, final

PROC: Final = Path("/proc")
TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Stat:
    """What one line of /proc/PID/stat says."""

    parent: int
    cpu_s: float
    """User and system, with that of the children that have ended and were waited for."""
    resident_bytes: int


@dataclass(frozen=True)
class Usage:
    """Of a process and its descendants together."""

    cpu_s: float
    resident_bytes: int
    processes: int


def parse(line: str) -> Stat:
    """Read a line of /proc/PID/stat. The name in it may hold spaces and brackets."""
    fields = line[line.rindex(")") + 2 :].split()
    ticks = sum(map(int, fields[11:15]))
    return Stat(int(fields[1]), ticks * TICK_S, int(fields[21]) * PAGE_BYTES)


def usage(pid: int, proc: Path = PROC) -> Usage:
    """What the process and its living descendants have used. Raises: `ProcessLookupError`."""
    stats = _all(proc)
    if pid not in stats:
        raise ProcessLookupError(f"There is no process {pid}.")
    members = [stats[one] for one in _descendants(pid, stats)]
    return Usage(sum(one.cpu_s for one in members), sum(one.resident_bytes for one in members), len(members))


def _all(proc: Path) -> dict[int, Stat]:
    found = {}
    for folder in proc.iterdir():
        if folder.name.isdigit():
            try:
                found[int(folder.name)] = parse((folder / "stat").read_text())
            except OSError:  # it has ended meanwhile
                continue
    return found


def _descendants(pid: int, stats: dict[int, Stat]) -> list[int]:
    family = [pid]
    for one in family:  # grows while it is walked
        family += [child for child, stat in stats.items() if stat.parent == one]
    return family


@final
class MemoryWatch:
    """Samples the resident bytes of a process and its descendants while the block runs."""

    def __init__(self, pid: int, every_s: float = 0.25) -> None:
        self._pid = pid
        self._every_s = every_s
        self._over = Event()
        self._thread = Thread(target=self._run, daemon=True)
        self.samples: list[tuple[float, int]] = []
        """(seconds since the start, bytes)."""

    def __enter__(self) -> "MemoryWatch":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def most(self, since: float, until: float) -> int:
        """The most bytes in a part of the time, both ends given as a share of all of it."""
        last_s = self.samples[-1][0]
        return max(size for at_s, size in self.samples if since * last_s <= at_s <= until * last_s)

    def _run(self) -> None:
        started_s = time.monotonic()
        while True:
            try:
                self.samples.append((time.monotonic() - started_s, usage(self._pid).resident_bytes))
            except ProcessLookupError:
                return
            if self._over.wait(self._every_s):
                return
