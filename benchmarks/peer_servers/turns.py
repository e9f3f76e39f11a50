"""The other end of `benchmarks.pipe.Waiting` in a peer's environment: answers question by question."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import pipe


def serve(answer: Callable[[Any], object]) -> None:
    """Until the questions end. What a library prints goes to the standard error: the pipe is for answers alone."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        while (came := pipe.read(sys.stdin.buffer)) is not None:
            pipe.write(answers, answer(came[0]))


def timed(work: Callable[[], object], least_s: float) -> tuple[float, float]:
    """How often a second it was done, once and on until the seconds are enough; and the CPU seconds that each took."""
    times, seconds, started_s, before_s = 0, 0.0, time.perf_counter(), time.process_time()
    while not times or seconds < least_s:
        work()
        times += 1
        seconds = time.perf_counter() - started_s
    return times / seconds, (time.process_time() - before_s) / times


def resident_bytes() -> int:
    """Of this process, now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
