"""Row 1: CPU seconds that the whole server spends on a prediction, over those of the backbone alone on an input.

The server gets raw JPEGs (texts: JSON) from 32 clients; its CPU seconds are those of all its processes, from /proc.
The backbone is run by every executor at several batch sizes; what takes least CPU for an input, found first, takes its
turn beside the server in each round, on inputs that were decoded beforehand.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.bodies import photographs, sentences
from benchmarks.generator import Generator
from benchmarks.pipe import Waiting
from benchmarks.rounds import Scope, median_row, ratios, tell
from benchmarks.served import Server, serving
from benchmarks.setting_up import (
    PHOTO,
    QUERY_SEED,
    TEXT,
    photo_bodies,
    photo_task,
    settings,
    text_bodies,
    text_task,
    under_load,
)
from benchmarks.table import Row

BATCHES: Final = (1, 2, 4, 8, 16, 32, 64)
POOL: Final = 2_048
"""Bodies of a round, so that none comes twice where a few hundred are answered in a second."""
BARE_INPUTS: Final = 256


@dataclass(frozen=True)
class Kind:
    """One backbone with what it is sent."""

    title: str
    backbone: str
    goal: float
    inputs: Callable[[], list[bytes]]
    bodies: Callable[[int, int], tuple[str, list[bytes]]]
    task: Callable[[Server], str]


KINDS: Final = (
    Kind("photographs", PHOTO, 1.25, lambda: photographs(BARE_INPUTS, 0), photo_bodies, photo_task),
    Kind(
        "texts",
        TEXT,
        1.10,
        lambda: [text.encode() for text in sentences(BARE_INPUTS, 0)],
        text_bodies,
        text_task,
    ),
)


def measure(scope: Scope) -> list[Row]:
    """Of photographs and of texts."""
    return [row for kind in KINDS for row in rows_of(scope, kind)]


def rows_of(scope: Scope, kind: Kind) -> list[Row]:
    """Of one backbone."""
    content_type, bodies = kind.bodies(POOL, QUERY_SEED)
    spent: list[float] = []
    bare: list[float] = []
    served_rate: list[float] = []
    bare_rate: list[float] = []
    with (
        Waiting("benchmarks.bare", kind.backbone, scope.device) as alone,
        serving(settings(scope, kind.backbone)) as server,
        Generator(bodies) as generator,
    ):
        best = best_of(alone, kind.inputs(), scope.seconds / 8, "cpu_s")
        served_by = server.executor(kind.backbone)
        task = kind.task(server)
        under_load(generator, server, scope, content_type, [task])
        for number in range(scope.rounds):
            generator.pool(kind.bodies(POOL, QUERY_SEED + 1 + number)[1])
            took = alone.ask({**best, "least_inputs": 0, "least_s": scope.seconds})
            bare.append(took["cpu_s"] / took["inputs"])
            bare_rate.append(took["inputs"] / took["wall_s"])
            before = server.usage()
            outcome = under_load(generator, server, scope, content_type, [task], seed=number)
            spent.append((server.usage().cpu_s - before.cpu_s) / outcome.finished)
            served_rate.append(outcome.rate())
            tell(f"cpu: {kind.title}: server {1000 * spent[-1]:.2f} ms, bare {1000 * bare[-1]:.2f} ms of CPU")
    how = f"{best['executor']}, batch {best['batch']}"
    goal = kind.goal if scope.device == "cpu" else None
    return [
        median_row(f"1 {kind.title}: server CPU over bare backbone CPU", ratios(spent, bare), "times", goal, "lower"),
        median_row("  server CPU a prediction", [1000 * one for one in spent], "ms", better="lower", note=served_by),
        median_row("  bare backbone CPU an input", [1000 * one for one in bare], "ms", better="lower", note=how),
        median_row("  predictions a second over the bare backbone's", ratios(served_rate, bare_rate), "times"),
        median_row("  predictions a second", served_rate, "1/s"),
    ]


def best_of(alone: Waiting, inputs: list[bytes], least_s: float, by: str, least_inputs: int = 0) -> dict[str, Any]:
    """The executor and the batch size that take least of `by` (cpu_s or wall_s) for an input."""
    executors = alone.ask(None, inputs)
    found = {}
    for executor in executors:
        for batch in BATCHES:
            if least_inputs and batch > least_inputs:
                continue
            took = alone.ask({"executor": executor, "batch": batch, "least_inputs": least_inputs, "least_s": least_s})
            found[executor, batch] = took[by] / took["inputs"]
    executor, batch = min(found, key=lambda one: found[one])
    return {"executor": executor, "batch": batch}
