"""Row 3: what HTTP costs. No backbone (vectors of 64 numbers as JSON), metrics and logs on, 16 clients.

The server is pinned to one core and wrk to another. A bare FastAPI app takes turns on the same core: it says what this
machine allows today.
"""

import os
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from app.demo.show import free_port
from benchmarks import wrk
from benchmarks.bodies import JSON
from benchmarks.generator import Generator
from benchmarks.plan import Outcome, Plan, Stream
from benchmarks.rounds import Scope, median_row, ratios, tell
from benchmarks.served import LOG, process, serving, wait_until_ready
from benchmarks.setting_up import VECTOR, predict_path, settings, vector_bodies, vector_task
from benchmarks.table import Row

CLIENTS: Final = 16
GOAL: Final = 4_000.0
GOAL_P99_MS: Final = 25.0
BODIES: Final = 256


def measure(scope: Scope) -> list[Row]:
    """Ours and the bare app, in turns."""
    server_cores, client_cores = two_cores()
    _, bodies = vector_bodies(BODIES)
    ours: list[Outcome] = []
    least: list[Outcome] = []
    with (
        tempfile.TemporaryDirectory(prefix="imprint-bench-") as scratch,
        # Whatever device the scope has: to copy a few numbers there and back is no part of the shell.
        serving({**settings(scope, VECTOR), "device": "cpu"}, cores=server_cores) as server,
        bare_app(Path(scratch), server_cores) as bare_port,
    ):
        targets = [(ours, server.port, predict_path(vector_task(server))), (least, bare_port, "/predict")]
        for number in range(-1, scope.rounds):  # the first is to warm up
            for found, port, path in targets:
                outcome = loaded(scope, port, path, bodies, client_cores, Path(scratch))
                if outcome.failed:
                    raise RuntimeError(f"{outcome.failed} requests to {path} failed: {dict(outcome.streams)}")
                if number >= 0:
                    found.append(outcome)
            if number >= 0:
                p99_ms = ours[-1].of(200).p99_ms
                tell(f"shell: {ours[-1].rate():.0f}/s, p99 {p99_ms:.1f} ms; bare app {least[-1].rate():.0f}/s")
    rates, bare = [one.rate() for one in ours], [one.rate() for one in least]
    how = f"{CLIENTS} clients of {'wrk' if wrk.installed() else 'our own generator (no wrk here)'}"
    if server_cores is None:
        how += ", not pinned: one core only"
    latencies = [one.of(200).p99_ms for one in ours]
    return [
        median_row("3 predictions a second without a backbone", rates, "1/s", GOAL, note=how),
        median_row("3   their p99", latencies, "ms", GOAL_P99_MS, "lower"),
        median_row("  over a bare FastAPI app", ratios(rates, bare), "times"),
        median_row("  the bare app", bare, "1/s"),
    ]


def two_cores() -> tuple[Collection[int] | None, Collection[int] | None]:
    """One for the server, another for the clients, where there are two."""
    cores = sorted(os.sched_getaffinity(0))
    return (cores[:1], cores[1:2]) if len(cores) > 1 else (None, None)


def loaded(
    scope: Scope, port: int, path: str, bodies: Sequence[bytes], cores: Collection[int] | None, folder: Path
) -> Outcome:
    """One turn."""
    if wrk.installed():
        return wrk.run(f"http://127.0.0.1:{port}{path}", bodies, CLIENTS, scope.seconds, folder, cores)
    plan = Plan(port, JSON, [Stream([path], clients=CLIENTS)], scope.seconds, warm_s=0.2)
    with Generator(bodies, cores) as generator:
        return generator.run(plan)


@contextmanager
def bare_app(folder: Path, cores: Collection[int] | None) -> Iterator[int]:
    """The bare app's port."""
    port, log = free_port(0), folder / LOG
    began_s = time.monotonic()
    with process([sys.executable, "-m", "benchmarks.bare_server", str(port)], log, cores) as started:
        wait_until_ready(started, port, began_s, log)
        yield port
