"""Row 9: eleven tasks at the same rate, then one of them at ten times that rate; what becomes of the others' p99.

Raw JPEGs, open loops. Each of the ten others sends 6 % of what the server can answer, measured just before: so without
the loud one the server is two thirds busy, and with it one fifth over its capacity. Only a queue that is fair to tasks
can hold the others' times; one in the order of arrival cannot.
"""

from typing import Final

from benchmarks.engine_rows.overload import settle
from benchmarks.engine_rows.tasks import copy
from benchmarks.generator import Generator
from benchmarks.plan import Outcome, Plan, Stream
from benchmarks.rounds import Scope, median_row, ratios, tell
from benchmarks.served import Server, serving
from benchmarks.setting_up import PHOTO, photo_bodies, photo_task, predict_path, settings, under_load
from benchmarks.table import Row

OTHERS: Final = 10
LOUDER: Final = 10
SHARE: Final = 0.06
GOAL: Final = 2.0
POOL: Final = 1_024
TURN: Final = 2.5
"""An open loop takes so many times the seconds of a turn: its p99 needs answers enough."""


def measure(scope: Scope) -> list[Row]:
    """Even and uneven rates, in turns."""
    content_type, bodies = photo_bodies(POOL)
    even: list[Outcome] = []
    loud: list[Outcome] = []
    with serving(settings(scope, PHOTO)) as server, Generator() as generator:
        copy(server, generator, photo_task(server), OTHERS)
        generator.pool(bodies)
        tasks = server.task_ids()
        under_load(generator, server, scope, content_type, tasks)
        for number in range(scope.rounds):
            rate = SHARE * under_load(generator, server, scope, content_type, tasks, seed=number).rate()
            for found, times in ((even, 1), (loud, LOUDER)):
                found.append(_loaded(generator, server, scope, content_type, tasks, rate, times, number))
                settle(server)
            one, other = even[-1].of(200, "others"), loud[-1].of(200, "others")
            tell(f"fairness: others' p99 {one.p99_ms:.0f} ms ({one.count}), beside the loud {other.p99_ms:.0f} ms")
    return rows_of(even, loud)


def _loaded(
    generator: Generator,
    server: Server,
    scope: Scope,
    content_type: str,
    tasks: list[str],
    rate: float,
    times: int,
    seed: int,
) -> Outcome:
    first, *others = (predict_path(task) for task in tasks)
    streams = [
        Stream([first], rate=times * rate, name="loud"),
        Stream(others, [1.0] * len(others), rate=rate * len(others), name="others"),
    ]
    plan = Plan(
        server.port, content_type, streams, TURN * scope.seconds, warm_s=0.5, grace_s=2 * scope.seconds, seed=seed
    )
    return generator.run(plan)


def rows_of(even: list[Outcome], loud: list[Outcome]) -> list[Row]:
    """What the rounds say."""
    quiet = [one.of(200, "others").p99_ms for one in even]
    beside = [one.of(200, "others").p99_ms for one in loud]
    lost = sum(one.failed for one in (*even, *loud))
    note = f"{lost} failed" if lost else ""
    return [
        median_row(
            f"9 others' p99 beside one at {LOUDER} times the rate", ratios(beside, quiet), "times", GOAL, "lower", note
        ),
        median_row("  others' p99, even rates", quiet, "ms", better="lower"),
        median_row("  the loud one's p99", [one.of(200, "loud").p99_ms for one in loud], "ms", better="lower"),
    ]
