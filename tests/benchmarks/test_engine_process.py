"""CPU seconds and memory are those of a process and all that it started."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.process import PAGE_BYTES, TICK_S, MemoryWatch, parse, usage

BURN = "import time\nwhile time.process_time() < 0.3: pass\n"
PARENT = f"""
import subprocess, sys
subprocess.run([sys.executable, "-c", {BURN!r}], check=True)
child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
print("ready", flush=True)
input()
child.kill()
child.wait()
"""


def line(pid: int, name: str, parent: int, user: int, system: int, of_children: int, pages: int) -> str:
    fields = ["S", parent, 1, 1, 0, -1, 0, 0, 0, 0, 0, user, system, of_children, 0, 20, 0, 1, 0, 5, 999, pages, 7]
    return f"{pid} ({name}) {' '.join(map(str, fields))}\n"


def test_a_line_of_stat_is_read_whatever_the_process_is_called() -> None:
    stat = parse(line(7, "a) R 1 (b", parent=3, user=20, system=5, of_children=100, pages=10))

    assert stat.parent == 3
    assert stat.cpu_s == pytest.approx(125 * TICK_S)
    assert stat.resident_bytes == 10 * PAGE_BYTES


def test_a_process_is_counted_with_its_descendants_and_nobody_else(tmp_path: Path) -> None:
    for pid, parent in ((1, 0), (10, 1), (11, 10), (12, 11), (20, 1)):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(line(pid, "x", parent, pid, 0, 0, pages=pid))
    (tmp_path / "13").mkdir()  # one that ended between the listing and the reading
    (tmp_path / "self").mkdir()

    found = usage(10, tmp_path)

    assert found.processes == 3
    assert found.cpu_s == pytest.approx((10 + 11 + 12) * TICK_S)
    assert found.resident_bytes == (10 + 11 + 12) * PAGE_BYTES
    with pytest.raises(ProcessLookupError, match="99"):
        usage(99, tmp_path)


def test_what_a_child_burned_counts_after_it_has_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"

        found = usage(process.pid)
        process.communicate(b"\n")

    assert found.processes == 2
    assert found.cpu_s >= 0.25
    assert found.resident_bytes > 2**20


def test_the_watch_samples_while_its_block_runs() -> None:
    with MemoryWatch(os.getpid(), every_s=0.01) as watch:
        while len(watch.samples) < 3:
            pass

    assert all(size > 2**20 for _, size in watch.samples)


def test_the_most_is_that_of_a_part_of_the_time() -> None:
    watch = MemoryWatch(os.getpid())
    watch.samples = [(0.0, 1), (1.0, 9), (4.0, 5), (5.0, 6), (7.0, 3), (9.0, 4)]

    assert watch.most(1 / 3, 2 / 3) == 6
    assert watch.most(2 / 3, 1) == 4
    assert watch.most(0, 1) == 9
