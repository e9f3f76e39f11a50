"""Starts a server of its own with the operator's settings, loads each backbone, and says what binds."""

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
from rich.console import Console

from app.bench import usage
from app.bench.bodies import Traffic, traffic
from app.bench.database import write_seconds
from app.bench.limits import MORE, Busy, Part
from app.bench.load import Outcome, Span, Target, load
from app.bench.report import Result, show, write
from app.checkpoints.load import scan
from app.config import Settings
from app.demo.show import LOG, free_port, start_server, stop, wait_until_ready
from app.engine.device import resolve_device

ADAPTATIONS: Final = 3
LEARNER: Final = "protonet"
"""Asked for where the backbone offers it: the cheapest one, so that what is seen is the backbone's."""

ALONE: Final = {"HOST": "127.0.0.1", "DATABASE_URL": None, "LOG_FORMAT": None}
"""What a server that is there to be measured does not take over from the operator."""


@dataclass(frozen=True)
class Options:
    """What the command line says; no backbones are one of each make."""

    backbones: Sequence[str]
    seconds: float
    clients: int
    json_file: Path | None


class Refused(Exception):
    """The measurement cannot be made; the message says why."""


def run(options: Options) -> int:
    """Measure, print; the exit status."""
    console = Console(highlight=False)
    settings = Settings()
    try:
        with tempfile.TemporaryDirectory(prefix="imprint-bench-") as scratch:
            results = _measured(options, settings, Path(scratch), console)
    except (Refused, RuntimeError, httpx.HTTPError, OSError) as error:
        console.print(f"[red]No measurement:[/red] {error}", soft_wrap=True)
        return 1
    for sentence in (one for result in results for one in result.sentences()):
        console.print(sentence, soft_wrap=True)
    if options.json_file:
        write(options.json_file, results, settings.device)
    return 0


def _measured(options: Options, settings: Settings, scratch: Path, console: Console) -> list[Result]:
    if settings.database_url is not None:
        console.print("The database is a fresh SQLite one on this disk: yours is left alone.")
    written_s = write_seconds(scratch / "writes")
    names = chosen(settings, options.backbones)
    with _server(settings, scratch / "server", names) as (process, client):
        cards = client.get("/v1/backbones").json()["backbones"]
        results = []
        for card in cards:
            results.append(Backbone(card, client, process, options, written_s).result())
            show(console, results[-1])
    return results


@contextmanager
def _server(settings: Settings, folder: Path, wanted: Sequence[str]) -> Iterator[tuple[int, httpx.Client]]:
    """Its process and a client. Exports of backbones that the operator's server has made are taken over."""
    folder.mkdir()
    if settings.executor_folder().is_dir():
        shutil.copytree(settings.executor_folder(), folder / "executors")
    changed = {**ALONE, "LOG_LEVEL": "warning", "BACKBONES": ",".join(wanted)}
    port = free_port(0)
    process = start_server(port, folder, changed)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(url, process, folder / LOG)
        with httpx.Client(base_url=url, timeout=120.0) as client:
            yield process.pid, client
    finally:
        stop(process)


def chosen(settings: Settings, wanted: Sequence[str]) -> list[str]:
    """The wanted backbones, or else one of each make that is served: of one network in one size, one says all.

    Raises: `Refused` for a name that is not there.
    """
    located = scan(settings.model_folders())
    known = settings.wanted_backbones() or set(located)
    missing = set(wanted) - set(located)
    if not located:
        raise Refused("There is no checkpoint to serve: IMPRINT_MODELS names folders of them.")
    if missing:
        raise Refused(f"There is no backbone {', '.join(sorted(missing))}; there are: {', '.join(sorted(located))}.")
    makes: dict[str, str] = {}
    # Of a make, one with the learner that is asked for comes first.
    for name in sorted(
        wanted or known & set(located), key=lambda one: (LEARNER not in located[one].card.learners, one)
    ):
        card = located[name].card
        make = f"{card.architecture} {sorted(card.architecture_settings.items())}"
        makes.setdefault(name if wanted else make, name)
    return sorted(makes.values())


class Backbone:
    """One backbone under load."""

    def __init__(
        self, card: Mapping[str, Any], client: httpx.Client, pid: int, options: Options, written_s: float
    ) -> None:
        self._name = str(card["name"])
        self._executor = str((card.get("executor") or {"name": "torch"})["name"])
        self._learner = LEARNER if LEARNER in card["learners"] else next(iter(card["learners"]))
        self._card = card
        self._client = client
        self._pid = pid
        self._options = options
        self._written_s = written_s
        self._settings = Settings()

    def result(self) -> Result:
        """Adapt, predict, predict and record."""
        adapted = [self._adapt(traffic(self._card, seed)) for seed in range(ADAPTATIONS)]
        task = adapted[-1][0]
        predict, busy = self._loaded(task, self._options.seconds, record=False)
        record, record_busy = self._loaded(task, self._options.seconds / 2, record=True)
        return Result(
            backbone=self._name,
            executor=self._executor,
            learner=self._learner,
            adapt_s=sorted(took for _, took in adapted)[ADAPTATIONS // 2],
            predict=predict,
            busy=busy,
            record=record,
            record_busy=record_busy,
            more=more_of(self._card["modality"], self._executor, resolve_device(self._settings.device).type),
            clients=self._options.clients,
        )

    def _adapt(self, asked: Traffic) -> tuple[str, float]:
        began_s = time.perf_counter()
        body = {"backbone": self._name, "learner": self._learner, "support": asked.support}
        response = self._client.post("/v1/tasks", json=body)
        if response.is_error:
            raise Refused(f"{self._name}: {response.status_code} {response.text[:300]}")
        return str(response.json()["id"]), time.perf_counter() - began_s

    def _loaded(self, task: str, seconds: float, *, record: bool) -> tuple[Outcome, Busy]:
        asked = traffic(self._card, ADAPTATIONS + record, record=record)
        path = f"/v1/tasks/{task}/predict{asked.query}"
        target = Target(self._client.base_url.port or 80, path, asked.content_type, asked.bodies)
        outcome, before, after = asyncio.run(self._watched(target, seconds))
        if not outcome.answered:
            raise Refused(f"{self._name}: nothing was answered in {seconds:g} s. {outcome.first_failure}")
        return outcome, self._busy(outcome, before, after, outcome.answered if record else 0)

    async def _watched(self, target: Target, seconds: float) -> tuple[Outcome, usage.Counted, usage.Counted]:
        span = Span()
        loading = asyncio.create_task(load(target, self._options.clients, seconds, span))
        counts = []
        async with httpx.AsyncClient(base_url=self._client.base_url, timeout=60.0) as client:
            for end in (span.opened, span.closed):
                await end.wait()
                # The system first: to be asked for the metrics is work, too.
                system = usage.thread_seconds(self._pid), usage.idle_seconds()
                counts.append(usage.counted(*system, (await client.get("/metrics")).text, self._name))
        await loading
        return span.outcome, counts[0], counts[1]

    def _busy(self, outcome: Outcome, before: usage.Counted, after: usage.Counted, writes: int) -> Busy:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        spent = {kind: seconds - before.threads.get(kind, 0.0) for kind, seconds in after.threads.items()}
        device = "the device thread's time"
        parts = [
            Part("backbone", after.backbone_s - before.backbone_s, 1, device),
            Part("heads", after.heads_s - before.heads_s, 1, device),
        ]
        if spent:
            lanes = min(self._settings.decode_threads, cores)
            decoding = f"the time of {lanes} decoding threads" if lanes > 1 else "the decoding thread's time"
            parts += [
                Part("decode", spent.get(usage.DECODE, 0.0), lanes, decoding),
                Part("HTTP", spent.get(usage.LOOP, 0.0), 1, "the event loop's time"),
            ]
        if writes:
            # As it was alone; there is no more than all of the time.
            writing_s = min(writes * self._written_s, outcome.seconds)
            parts.append(Part("database", writing_s, 1, "the writer's time"))
        return Busy(
            outcome.seconds,
            outcome.answered,
            parts,
            sum(spent.values()) if spent else None,
            outcome.own_cpu_s,
            cores,
            _idle(before, after, outcome.seconds),
        )


def more_of(modality: str, executor: str, device: str) -> dict[str, str]:
    """What raises the throughput on a device of this type, where the executor says more than the machine."""
    found = dict(MORE)
    if device == "cpu" and executor == "torch" and modality != "vector":
        found["backbone"] = "the extra `fast` (faster executors for CPUs), or a faster device"
    return found


def _idle(before: usage.Counted, after: usage.Counted, seconds: float) -> float | None:
    if before.idle_s is None or after.idle_s is None:
        return None
    return (after.idle_s - before.idle_s) / (seconds * (os.cpu_count() or 1))
