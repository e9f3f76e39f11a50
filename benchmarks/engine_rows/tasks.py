"""Row 2: predictions a second over a thousand tasks, over those with one task, on the same server.

All tasks are copies of one by export and import, which to a server are tasks of their own: records, versions, states.
Once with the photo backbone, and once with none (vectors), where all that is left is what a task costs.
"""

from collections.abc import Callable
from typing import Final

from benchmarks.generator import Generator
from benchmarks.plan import Plan, Stream
from benchmarks.rounds import Scope, median_row, ratios, tell
from benchmarks.served import Server, serving
from benchmarks.setting_up import (
    PHOTO,
    VECTOR,
    photo_bodies,
    photo_task,
    predict_path,
    settings,
    under_load,
    vector_bodies,
    vector_task,
    zipf,
)
from benchmarks.table import Row

GOAL: Final = 0.95
POOL: Final = 1_024
SAFETENSORS: Final = "application/vnd.safetensors"
Bodies = Callable[[int], tuple[str, list[bytes]]]


def measure(scope: Scope) -> list[Row]:
    """With the photo backbone, and without one."""
    return [
        *rows_of(scope, "photographs", PHOTO, photo_task, photo_bodies),
        *rows_of(scope, "vectors, no backbone", VECTOR, vector_task, vector_bodies),
    ]


def rows_of(scope: Scope, title: str, backbone: str, make: Callable[[Server], str], bodies_of: Bodies) -> list[Row]:
    """Of one backbone: one task, all evenly, all by Zipf's law, in turns."""
    content_type, bodies = bodies_of(POOL)
    with serving(settings(scope, backbone)) as server, Generator() as generator:
        copy(server, generator, make(server), scope.distinct - 1)
        tasks = server.task_ids()
        generator.pool(bodies)
        paths = [predict_path(task) for task in tasks]
        draws = {"one": ([tasks[0]], None), "evenly": (tasks, [1.0] * len(tasks)), "by Zipf": (tasks, zipf(len(tasks)))}
        rates: dict[str, list[float]] = {name: [] for name in draws}
        # Once each, so that none is cold: what a cold one costs is another row.
        generator.run(Plan(server.port, content_type, [Stream(paths, clients=scope.clients)], total=len(tasks)))
        for number in range(-1, scope.rounds):  # the first is to warm up
            for name, (some, weights) in draws.items():
                rate = under_load(generator, server, scope, content_type, some, weights, number).rate()
                if number >= 0:
                    rates[name].append(rate)
            tell(f"tasks: {title}: " + ", ".join(f"{name} {found[-1:]}" for name, found in rates.items()))
    count = len(tasks)
    return [
        *(
            median_row(
                f"2 {title}: {count} tasks {name} over one task", ratios(rates[name], rates["one"]), "times", GOAL
            )
            for name in ("evenly", "by Zipf")
        ),
        median_row("  predictions a second, one task", rates["one"], "1/s"),
    ]


def copy(server: Server, generator: Generator, task: str, count: int) -> None:
    """Make copies of a task. Raises: `RuntimeError` where an import fails."""
    exported = server.client.get(f"/v1/tasks/{task}/export")
    exported.raise_for_status()
    generator.pool([exported.content])
    outcome = generator.run(Plan(server.port, SAFETENSORS, [Stream(["/v1/tasks/import"], clients=4)], total=count))
    if outcome.of(201).count != count:
        raise RuntimeError(f"Not every import came through: {dict(outcome.streams)}")
