"""Rows (a) and (d): photo servers with many tasks over one backbone: ours, LitServe, BentoML, FastAPI without batching.

All have the same weights, get the same raw JPEGs from the same clients in a closed loop over all tasks, and answer with
the nearest prototype of the task. The peers are written as their documentation has it (`benchmarks/peer_servers/`), one
process for the model, prototypes in a dictionary: nothing is stored, checked, counted or calibrated there. Each runs
the network by eager torch, and the batching ones by ONNX Runtime, too, on the very file that ours runs. Ours is
`imprint serve` as it comes, and once more with each of these executors, so that one ratio is of the same work.
"""

import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.bodies import JPEG, photographs, shared_out
from benchmarks.generator import Generator
from benchmarks.peer_rows import PeerScope
from benchmarks.peer_rows.photo_servers import (
    PEERS,
    Running,
    interpreter,
    our_server,
    peer_server,
    runtimes,
    settings_of,
)
from benchmarks.peer_rows.photo_tasks import Asked, asked
from benchmarks.plan import Plan, Stream
from benchmarks.process import MemoryWatch
from benchmarks.rounds import median_row, ratios, tell
from benchmarks.setting_up import SHOT, WAY, photo_bodies
from benchmarks.table import Row

POOL: Final = 2_048
"""Photographs of a round, so that none comes twice to a server in a turn."""
QUERIES: Final = 100
ADAPTATIONS: Final = 3
"""Of each server in a round; the round's time is their median."""
MIB: Final = 2**20


@dataclass
class Seen:
    """What one server did, a number a round."""

    rate: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    memory_mib: list[float] = field(default_factory=list)
    adapt_ms: list[float] = field(default_factory=list)
    failed: int = 0
    labels: list[str] = field(default_factory=list)
    """Its answers to the queries, once."""


LOWER: Final[Mapping[str, str]] = {
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "adapt_ms": "adapt ms",
    "cpu_ms": "CPU ms",
    "memory_mib": "peak MiB",
}
"""What is better when it is lower, by the column's heading."""


def measure(scope: PeerScope) -> list[Row]:
    """Start all, make the tasks, compare the answers, then let them take turns."""
    given = asked(scope.tasks, QUERIES)
    with servers(scope) as running, Generator() as generator:
        seen = {one.name: Seen() for one in running}
        for one in running:
            tell(f"serving: {one.name} learns {len(given.tasks)} tasks")
            for task, support in given.tasks.items():
                one.adapt(task, support)
            seen[one.name].labels = answers(one, given, scope.clients)
        for number in range(-1, scope.rounds):  # the first is to warm up
            generator.pool(photo_bodies(POOL, 2 + number)[1])
            for one in running:
                found = seen[one.name] if number >= 0 else Seen()
                adapt(one, found, number)
                load(one, found, generator, scope, list(given.tasks))
                tell(f"serving: {one.name} {found.rate[-1]:.1f}/s, {found.adapt_ms[-1]:.0f} ms to adapt")
        return rows_of(running, seen, given)


@contextmanager
def servers(scope: PeerScope) -> Iterator[list[Running]]:
    """Ours first; peers are installed before anything runs."""
    pythons = {peer.title: interpreter(peer, scope.cache) for peer in PEERS}
    with ExitStack() as stack, tempfile.TemporaryDirectory(prefix="imprint-bench-") as scratch:
        running = [stack.enter_context(our_server(scope, "auto"))]
        for runtime in runtimes(scope):
            if runtime != running[0].runtime:
                running.append(stack.enter_context(our_server(scope, runtime)))
        for peer in PEERS:
            for runtime in peer.runtimes:
                if runtime in runtimes(scope):
                    how = settings_of(scope, runtime)
                    server = peer_server(peer, pythons[peer.title], runtime, Path(scratch), how)
                    running.append(stack.enter_context(server))
        yield running


def answers(one: Running, given: Asked, clients: int) -> list[str]:
    """Its labels of all queries, asked side by side, for many are to share a batch."""
    with ThreadPoolExecutor(clients) as threads:
        return list(threads.map(lambda query: one.label(query.task, query.file), given.queries))


def adapt(one: Running, found: Seen, number: int) -> None:
    """Some adaptations to photographs that this server has not seen."""
    times = []
    for again in range(ADAPTATIONS):
        photos = photographs(WAY * SHOT, 10_000 + 10 * number + again)
        times.append(one.adapt(f"fresh-{again}", shared_out(photos, WAY)))
    found.adapt_ms.append(1000 * statistics.median(times))


def load(one: Running, found: Seen, generator: Generator, scope: PeerScope, tasks: Sequence[str]) -> None:
    """A turn in a closed loop over all tasks; a longer one where fewer answers came than there are clients.

    Raises: `RuntimeError` where next to none is a success.
    """
    paths = [one.predict_path(task) for task in tasks]
    for seconds in (scope.seconds, 4 * scope.seconds, 16 * scope.seconds):
        plan = Plan(one.port, JPEG, [Stream(paths, clients=scope.clients)], seconds, warm_s=0.5)
        before = one.usage()
        with MemoryWatch(one.pid) as memory:
            outcome = generator.run(plan)
        spent_s = one.usage().cpu_s - before.cpu_s
        good = outcome.of(200)
        if good.counted >= scope.clients:
            break
    else:
        raise RuntimeError(f"{one.name} does not answer: {dict(outcome.streams)}")
    found.cpu_ms.append(1000 * spent_s / outcome.finished)
    found.memory_mib.append(memory.most(0, 1) / MIB)
    found.rate.append(outcome.rate())
    found.p50_ms.append(good.p50_ms)
    found.p99_ms.append(good.p99_ms)
    found.failed += outcome.failed


def rows_of(running: Sequence[Running], seen: Mapping[str, Seen], given: Asked) -> list[Row]:
    """Each server, then ours over each peer: as it comes, and by the peer's own runtime."""
    rows = [own_row(one, seen[one.name], given) for one in running]
    ours = {one.runtime: one for one in running if one.ours}
    first = running[0]
    for peer in running:
        if not peer.ours:
            same = ours[peer.runtime]
            for mine in [first] if same is first else [first, same]:
                rows.append(over(mine, peer, seen))
    return [*rows, agreement(running, seen)]


def own_row(one: Running, found: Seen, given: Asked) -> Row:
    """Medians of one server."""
    columns = {heading: f"{statistics.median(getattr(found, name)):.4g}" for name, heading in LOWER.items()}
    right = [query.label == label for query, label in zip(given.queries, found.labels, strict=True)]
    columns["accuracy"] = f"{100 * statistics.fmean(right):.1f} %"
    notes = [one.note, f"{found.failed} FAILED" if found.failed else ""]
    row = median_row(one.name, found.rate, "1/s", note="; ".join(note for note in notes if note))
    return Row(row.name, row.value, row.unit, note=row.note, columns=columns)


def over(mine: Running, peer: Running, seen: Mapping[str, Seen]) -> Row:
    """Our predictions a second over the peer's; the other numbers as ratios, too."""
    ours, theirs = seen[mine.name], seen[peer.name]
    columns, behind = {}, []
    for name, heading in LOWER.items():
        ratio = statistics.median(ratios(getattr(ours, name), getattr(theirs, name)))
        columns[heading] = f"x {ratio:.2f}"
        if ratio > 1:
            behind.append(heading)
    if statistics.median(ratios(ours.rate, theirs.rate)) < 1:
        behind.insert(0, "1/s")
    note = "same work" if mine.runtime == peer.runtime else "each as it comes"
    note += f"; BEHIND in {', '.join(behind)}" if behind else "; ahead in all"
    row = median_row(f"{mine.name}, over {peer.name}", ratios(ours.rate, theirs.rate), "times", 1.0, note=note)
    return Row(row.name, row.value, row.unit, row.goal, note=row.note, columns=columns)


def agreement(running: Sequence[Running], seen: Mapping[str, Seen]) -> Row:
    """How many queries all servers answer alike."""
    found = list(zip(*(seen[one.name].labels for one in running), strict=True))
    alike = sum(len(set(one)) == 1 for one in found)
    return Row("queries that all servers answer alike", alike / len(found), "", note=f"{alike} of {len(found)}")
