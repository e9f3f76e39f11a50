"""Row 4: ten thousand stored tasks, asked by Zipf's law, and a cache for a tenth of their bytes.

Tasks of vectors, without a backbone, so that nothing hides what a miss costs. They are made over HTTP; then the server
starts anew on the same folder with the smaller cache, and knows none of them. What is counted comes from /metrics: a
miss is a load (`imprint_state_cache_events_total`), and the cached bytes are looked at ten times a second.
"""

import json
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Final, final

from benchmarks.bodies import JSON
from benchmarks.generator import Generator
from benchmarks.plan import Outcome, Plan, Stream
from benchmarks.rounds import Scope, median_row, ratios, tell
from benchmarks.served import Server, serving
from benchmarks.setting_up import VECTOR, predict_path, settings, vector_bodies, vector_support, zipf
from benchmarks.table import Row

SHARE: Final = 0.1
GOAL_COLD: Final = 3.0
AT_ONCE: Final = 100
EVENTS: Final = "imprint_state_cache_events_total"
BYTES: Final = "imprint_state_cache_bytes"


def measure(scope: Scope) -> list[Row]:
    """Errors, bytes, loads, and how much slower a cold prediction is."""
    with tempfile.TemporaryDirectory(prefix="imprint-bench-") as scratch, ExitStack() as stack:
        generator = stack.enter_context(Generator())
        tell(f"cache: {scope.tasks} tasks are made")
        with serving(settings(scope, VECTOR), folder=Path(scratch)) as first:
            make(first, generator, scope.tasks)
            tasks = first.task_ids()
            generator.pool(vector_bodies(256)[1])
            # Twice: the gauge is set when the cache is asked, and a load comes after that.
            ask(generator, first, tasks[:1] * 2)
            state_bytes = first.metric(BYTES)
        budget = int(SHARE * len(tasks) * state_bytes)
        small = {**settings(scope, VECTOR), "engine__state_cache_bytes": str(budget)}
        server = stack.enter_context(serving(small, folder=Path(scratch)))
        ask(generator, server, tasks[-1:] * 50)  # the connections, the threads
        return Cache(scope, server, generator, tasks[:-1], budget).rows()


def make(server: Server, generator: Generator, count: int) -> None:
    """Store tasks, each of other vectors. Raises: `RuntimeError` where one is refused."""
    generator.pool([json.dumps(vector_support(seed, shot=1)).encode() for seed in range(count)])
    outcome = generator.run(Plan(server.port, JSON, [Stream(["/v1/tasks"], clients=8)], total=count))
    if outcome.of(201).count != count:
        raise RuntimeError(f"Not every task was made: {dict(outcome.streams)}")


def ask(generator: Generator, server: Server, tasks: Sequence[str], clients: int = 1) -> Outcome:
    """Each task once, in turn."""
    stream = Stream([predict_path(task) for task in tasks], clients=clients)
    return generator.run(Plan(server.port, JSON, [stream], total=len(tasks)))


@final
class Cache:
    """The rounds. Tasks from the front are used up as cold ones; those behind them are asked by Zipf's law."""

    def __init__(self, scope: Scope, server: Server, generator: Generator, tasks: Sequence[str], budget: int) -> None:
        self._scope = scope
        self._server = server
        self._generator = generator
        self._budget = budget
        self._block = max(5, min(200, len(tasks) // (20 * scope.rounds)))
        fresh = scope.rounds * (self._block + 1)
        self._fresh, self._others = list(tasks[:fresh]), list(tasks[fresh:])
        self._failed = 0
        self._asked = 0
        self.loads: list[float] = []
        self.most_bytes: list[float] = []
        self.first: list[float] = []
        self.evicted: list[float] = []
        self.warm: list[float] = []

    def rows(self) -> list[Row]:
        """All rounds, put together."""
        for number in range(self._scope.rounds):
            self._zipf(number)
            self._at_once()
            self._cold()
            tell(
                f"cache: cold {self.first[-1]:.2f}, after eviction {self.evicted[-1]:.2f}, warm {self.warm[-1]:.2f} ms"
            )
        most = max(self.most_bytes) / self._budget
        block = f"{self._block} tasks a round"
        return [
            Row("4 errors", self._failed, "", 0, "lower", note=f"of {self._asked} predictions"),
            Row("4 most cached bytes over the budget", most, "times", 1.0, "lower", note=f"{self._budget} bytes"),
            Row(f"4 loads of {AT_ONCE} misses at once on a task", max(self.loads), "", 1, "lower"),
            median_row(
                "4 cold over warm, evicted", ratios(self.evicted, self.warm), "times", GOAL_COLD, "lower", block
            ),
            median_row(
                "4 cold over warm, first since the start",
                ratios(self.first, self.warm),
                "times",
                GOAL_COLD,
                "lower",
                block,
            ),
            median_row("  warm, one client, p50", self.warm, "ms", better="lower"),
        ]

    def _zipf(self, number: int) -> None:
        stream = Stream(
            [predict_path(task) for task in self._others], zipf(len(self._others)), clients=self._scope.clients
        )
        with GaugeWatch(self._server) as watch:
            plan = Plan(self._server.port, JSON, [stream], self._scope.seconds, seed=number)
            self._count(self._generator.run(plan))
        self.most_bytes.append(watch.most)

    def _at_once(self) -> None:
        before = self._loads()
        self._count(ask(self._generator, self._server, [self._fresh.pop()] * AT_ONCE, clients=AT_ONCE))
        self.loads.append(self._loads() - before)

    def _cold(self) -> None:
        """The same tasks for the first time, at once again, and after all others have pushed them out."""
        block = [self._fresh.pop() for _ in range(self._block)]
        self.first.append(self._p50(block, loads=len(block)))
        self.warm.append(self._p50(block, loads=0))
        enough = int(len(self._others) * min(1.0, SHARE * 1.5))
        self._count(ask(self._generator, self._server, self._others[:enough], clients=self._scope.clients))
        self.evicted.append(self._p50(block, loads=len(block)))

    def _p50(self, tasks: Sequence[str], loads: int) -> float:
        before = self._loads()
        outcome = ask(self._generator, self._server, tasks)
        self._count(outcome)
        found = self._loads() - before
        if found != loads:
            raise RuntimeError(f"{len(tasks)} predictions loaded {found:.0f} states, not {loads}.")
        return outcome.of(200).p50_ms

    def _loads(self) -> float:
        return self._server.metric(EVENTS, event="miss")

    def _count(self, outcome: Outcome) -> None:
        self._asked += outcome.finished
        self._failed += outcome.failed


@final
class GaugeWatch:
    """The most cached bytes while the block runs, from /metrics."""

    def __init__(self, server: Server, every_s: float = 0.1) -> None:
        self._server = server
        self._every_s = every_s
        self._over = Event()
        self._thread = Thread(target=self._run, daemon=True)
        self.most = 0.0

    def __enter__(self) -> "GaugeWatch":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self.most = max(self.most, self._server.metric(BYTES))
            if self._over.wait(self._every_s):
                return
