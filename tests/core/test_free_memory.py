"""Memory that was freed between what is in use goes back to the system."""

import json
import subprocess
import sys

import pytest

from app.core.free_memory import _malloc_trim

pytestmark = pytest.mark.skipif(_malloc_trim() is None, reason="this C library gives nothing back when asked")
"""glibc alone has the call; where it is, there is /proc too."""

GAPS = """
import json, os, pathlib, time
from app.core.free_memory import give_back, keep_giving_back

def resident_bytes():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def grown_with_gaps():
    blocks = [bytes([1]) * 100_000 for _ in range(1_000)]
    return blocks[::10]
"""


def told(script: str) -> list[int]:
    """What a fresh interpreter prints: its memory is nobody else's."""
    done = subprocess.run([sys.executable, "-c", GAPS + script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found: list[int] = json.loads(done.stdout)
    return found


def test_gaps_between_what_is_in_use_go_back() -> None:
    script = "kept = grown_with_gaps(); before = resident_bytes(); given = give_back()\n"
    before, after, given = told(script + "print(json.dumps([before, resident_bytes(), given]))")
    assert given
    assert before - after > 60_000_000  # of 90 MB that were freed between what is kept


def test_it_happens_again_while_the_process_computes() -> None:
    script = """
end = keep_giving_back(every_s=0.05)
time.sleep(0.5)
blocks = [bytes([1]) * 100_000 for _ in range(1_000)]
kept, most = blocks[::10], resident_bytes()
del blocks
until = time.monotonic() + 20
while resident_bytes() > most - 60_000_000 and time.monotonic() < until:
    time.sleep(0.05)
end()
print(json.dumps([most, resident_bytes()]))
"""
    most, after = told(script)
    assert most - after > 60_000_000
