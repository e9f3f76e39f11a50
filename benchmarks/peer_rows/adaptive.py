"""Row (b): adaptive-classifier's own server, on the same MiniLM and the same texts of CLINC150.

20 classes of 8 texts; each round draws other classes and texts. A classifier of the peer is a process of its own: it
starts anew in each round, and its start is told apart; `create` is the request that brings the 160 texts to a process
that waits for them. Ours is one server for all. The peer runs as it comes, which is by ONNX Runtime on a CPU.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from app.demo.show import free_port
from benchmarks.bodies import JSON
from benchmarks.environments import TORCH, installed_versions, python_of
from benchmarks.generator import Generator
from benchmarks.peer_rows import PeerScope
from benchmarks.peer_rows.beside import beside, points_ahead
from benchmarks.peer_rows.fifty import MANY, fifty, one_of_many
from benchmarks.peer_texts import SHOT, WAY, Draw, draws, others
from benchmarks.plan import Outcome, Plan, Stream
from benchmarks.process import usage
from benchmarks.rounds import median_row, tell
from benchmarks.served import LOG, Server, process, wait_until_ready
from benchmarks.table import Row
from benchmarks.text_server import (
    LAUNCH,
    executor_of,
    labels_of,
    make_task,
    our_server,
    published_weights,
    same_weights,
    waiting,
)

PEER: Final = "adaptive-classifier"
REQUIREMENTS: Final = (TORCH, "adaptive-classifier[serve]==0.3.1")
SHOWN: Final = ("adaptive-classifier", "onnxruntime")
SERVER: Final = "benchmarks.peer_servers.adaptive_server"
MANY_IN_ONE: Final = "benchmarks.peer_servers.adaptive_many"
ADDED: Final = 3
"""Single examples that are added in a round; the round's time is their median."""
POOL: Final = 2_000
"""Texts of a round's turns under load."""
MIB: Final = 2**20


@dataclass
class Found:
    """What the rounds brought for one contender; seconds, milliseconds, requests a second, per cent, MiB."""

    create: list[float] = field(default_factory=list)
    create_cpu: list[float] = field(default_factory=list)
    predict_cpu: list[float] = field(default_factory=list)
    """Milliseconds of CPU a prediction, of all the process's threads, under the scope's clients."""
    add: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    busy_p50: list[float] = field(default_factory=list)
    busy_p99: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Asked:
    """How a classifier is asked, once there is one."""

    pid: int
    port: int
    path: str
    body: Callable[[str], dict[str, object]]
    add: Callable[[str, str], object]
    labels: Callable[[Sequence[str]], list[str]]


def measure(scope: PeerScope) -> list[Row]:
    """Create, add, predict, accuracy; then fifty at once."""
    drawn = draws(scope.rounds + 2 + MANY)
    python = python_of(PEER, REQUIREMENTS, scope.cache)
    ours, theirs, ready, published = Found(), Found(), list[float](), list[float]()
    with tempfile.TemporaryDirectory(prefix="imprint-bench-") as folder, ExitStack() as stack:
        scratch = Path(folder)
        same, plain = same_weights(scratch), published_weights(scratch)
        aside = stack.enter_context(waiting(python, MANY_IN_ONE, scratch))
        server = stack.enter_context(our_server(scope))
        generator = stack.enter_context(Generator())
        about = f"ours by {executor_of(server)}, {installed_versions(python, SHOWN)}"
        _ours(scope, server, generator, drawn[-1], Found())  # to warm up
        for number, draw in enumerate(drawn[: scope.rounds]):
            _ours(scope, server, generator, draw, ours)
            with _peer(python, same, scratch) as (client, pid, ready_s):
                ready.append(ready_s)
                _theirs(scope, client, pid, generator, draw, theirs)
                theirs.memory.append(usage(pid).resident_bytes / MIB)
            ours.memory.append(server.usage().resident_bytes / MIB)
            one_of_many(aside, "plain", plain, draw)
            published.append(draw.accuracy(aside.ask({"name": "plain", "queries": draw.asked})["labels"]))
            tell(f"adaptive, round {number + 1} of {scope.rounds}: ours {told(ours)}; {PEER} {told(theirs)}")
    many = fifty(scope, python, PEER, drawn[scope.rounds : -1])
    return [*rows_of(ours, theirs, ready, published, scope.clients, about), *many]


def rows_of(
    ours: Found, theirs: Found, ready: Sequence[float], published: Sequence[float], clients: int, about: str
) -> list[Row]:
    """What the rounds say."""
    what = f"{WAY} classes of {SHOT} texts over HTTP; {about}"
    busy, one = f"{clients} clients", "one text a request"
    waits = "a classifier of the peer is a process: it starts, and exports its encoder"
    fit = "160 texts before it; of ours with the version stored"
    plainly = points_ahead("b accuracy, the peer on the published weights", PEER, ours.accuracy, published)
    return [
        *beside("b create a classifier", PEER, ours.create, theirs.create, "s", "lower", what),
        *beside("b create a classifier, CPU seconds", PEER, ours.create_cpu, theirs.create_cpu, "s", "lower"),
        median_row(f"  {PEER}, start of its process", ready, "s", better="lower", note=waits),
        *beside("b add one example", PEER, ours.add, theirs.add, "s", "lower", fit),
        *beside("b predict, one client, p50", PEER, ours.p50, theirs.p50, "ms", "lower", one),
        *beside("b predict, one client, p99", PEER, ours.p99, theirs.p99, "ms", "lower", one),
        *beside(f"b requests a second, {busy}", PEER, ours.rate, theirs.rate, "1/s", "higher", one),
        *beside("b CPU a prediction", PEER, ours.predict_cpu, theirs.predict_cpu, "ms", "lower", busy),
        *beside(f"b predict, {busy}, p50", PEER, ours.busy_p50, theirs.busy_p50, "ms", "lower", one),
        *beside(f"b predict, {busy}, p99", PEER, ours.busy_p99, theirs.busy_p99, "ms", "lower", one),
        *beside("b memory, all processes", PEER, ours.memory, theirs.memory, "MiB", "lower", "theirs: one classifier"),
        *points_ahead("b accuracy", PEER, ours.accuracy, theirs.accuracy, "the same weights; ours is `auto`"),
        plainly[0],
        plainly[2],
    ]


def told(found: Found) -> str:
    """The last round in a line."""
    return (
        f"creates {found.create[-1]:.2f} s, adds {found.add[-1]:.3f} s, p50 {found.p50[-1]:.1f} ms, "
        f"{found.rate[-1]:.0f}/s, {found.accuracy[-1]:.1f} %"
    )


@contextmanager
def _peer(python: Path, folder: Path, scratch: Path) -> Iterator[tuple[httpx.Client, int, float]]:
    """A client of a fresh process with an empty classifier, its pid, and how long it took until it was ready."""
    port, log = free_port(0), scratch / f"peer-{LOG}"
    log.touch()
    command = [sys.executable, "-m", LAUNCH, str(python), str(log), SERVER, str(folder), str(port)]
    began_s = time.monotonic()
    with process(command, log, None) as started:
        ready_s = wait_until_ready(started, port, began_s, log)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=600) as client:
            yield client, started.pid, ready_s


def _ours(scope: PeerScope, server: Server, generator: Generator, draw: Draw, found: Found) -> None:
    before_s = server.usage().cpu_s
    task, seconds = make_task(server, draw)
    found.create.append(seconds)
    found.create_cpu.append(server.usage().cpu_s - before_s)
    asked = Asked(
        server.pid,
        server.port,
        f"{task}/predict",
        lambda text: {"inputs": [text]},
        lambda text, label: server.asked(f"{task}/examples", json={"support": [{"label": label, "text": text}]}),
        lambda texts: labels_of(server, task, texts),
    )
    _turn(scope, asked, generator, draw, found)


def _theirs(scope: PeerScope, client: httpx.Client, pid: int, generator: Generator, draw: Draw, found: Found) -> None:
    def post(path: str, body: dict[str, object]) -> Any:
        return client.post(path, json=body).raise_for_status().json()

    before_s, started_s = usage(pid).cpu_s, time.perf_counter()
    post("/examples", {"texts": draw.texts, "labels": draw.labels})
    found.create.append(time.perf_counter() - started_s)
    found.create_cpu.append(usage(pid).cpu_s - before_s)

    def labels(texts: Sequence[str]) -> list[str]:
        halves = texts[: len(texts) // 2], texts[len(texts) // 2 :]  # it takes 256 at most
        answered = [post("/predict_batch", {"texts": list(half), "k": 1})["predictions"] for half in halves]
        return [str(best[0]["label"]) for half in answered for best in half]

    asked = Asked(
        pid,
        client.base_url.port or 0,
        "/predict",
        lambda text: {"text": text},
        lambda text, label: post("/examples", {"texts": [text], "labels": [label]}),
        labels,
    )
    _turn(scope, asked, generator, draw, found)


def _turn(scope: PeerScope, asked: Asked, generator: Generator, draw: Draw, found: Found) -> None:
    """Ask what was just made; then add to it."""
    found.accuracy.append(draw.accuracy(asked.labels(draw.asked)))
    generator.pool(
        [httpx.Request("POST", "http://-", json=asked.body(one)).content for one in others(POOL, len(found.add))]
    )
    alone = _loaded(scope, asked, generator, 1)
    before_s = usage(asked.pid).cpu_s
    busy = _loaded(scope, asked, generator, scope.clients)
    found.predict_cpu.append(1000 * (usage(asked.pid).cpu_s - before_s) / busy.finished)
    found.p50.append(alone.of(200).p50_ms)
    found.p99.append(alone.of(200).p99_ms)
    found.rate.append(busy.rate())
    found.busy_p50.append(busy.of(200).p50_ms)
    found.busy_p99.append(busy.of(200).p99_ms)
    took = []
    for text, label in draw.queries[:ADDED]:
        started_s = time.perf_counter()
        asked.add(text, label)
        took.append(time.perf_counter() - started_s)
    found.add.append(statistics.median(took))


def _loaded(scope: PeerScope, asked: Asked, generator: Generator, clients: int) -> Outcome:
    plan = Plan(asked.port, JSON, [Stream([asked.path], clients=clients)], scope.seconds / 2, warm_s=0.5)
    outcome = generator.run(plan)
    if outcome.failed:
        raise RuntimeError(f"{outcome.failed} of {outcome.finished} predictions failed: {dict(outcome.streams)}")
    return outcome
