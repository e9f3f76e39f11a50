"""Row 8: three times as many requests as the server can answer, whatever it answers, for a minute.

Raw JPEGs to one task, settings as they come. The peak is what a closed loop gets just before. Latencies are counted
from the instant at which a request was due. Memory is that of the whole server: the most in the last third of the time
over the most in the middle third, when the queue has filled. Where nothing was refused, the row of the refusals shows
the p99 of the answers: so long did those wait that should have been told to go away.
"""

import time
from collections import Counter
from typing import Final

from benchmarks.generator import Generator
from benchmarks.plan import Outcome, Plan, Stream
from benchmarks.process import MemoryWatch
from benchmarks.rounds import Scope, median_row, ratios, tell
from benchmarks.served import Server, serving
from benchmarks.setting_up import PHOTO, photo_bodies, photo_task, predict_path, settings, under_load
from benchmarks.table import Row

TIMES: Final = 3.0
GOAL_MS: Final = 50.0
GOAL_GOODPUT: Final = 0.9
GOAL_MEMORY: Final = 1.05
REFUSALS: Final = (429, 503)
POOL: Final = 1_024
MIB: Final = 2**20


def measure(scope: Scope) -> list[Row]:
    """Peak and overload, in turns."""
    content_type, bodies = photo_bodies(POOL)
    peaks: list[float] = []
    found: list[Outcome] = []
    memory: list[tuple[float, float, float]] = []
    with serving(settings(scope, PHOTO)) as server, Generator(bodies) as generator:
        task = photo_task(server)
        under_load(generator, server, scope, content_type, [task])
        for number in range(scope.rounds):
            peaks.append(under_load(generator, server, scope, content_type, [task], seed=number).rate())
            stream = Stream([predict_path(task)], rate=TIMES * peaks[-1])
            plan = Plan(server.port, content_type, [stream], scope.overload_seconds, grace_s=1.0, seed=number)
            with MemoryWatch(server.pid) as watch:
                found.append(generator.run(plan))
            memory.append((watch.samples[0][1], watch.most(1 / 3, 2 / 3), watch.most(2 / 3, 1)))
            tell(f"overload: peak {peaks[-1]:.0f}/s, answered {found[-1].rate():.0f}/s: {dict(found[-1].streams)}")
            settle(server)
    return rows_of(peaks, found, memory)


def rows_of(peaks: list[float], found: list[Outcome], memory: list[tuple[float, float, float]]) -> list[Row]:
    """What the rounds say. Memory: before, in the middle third, in the last third."""
    refused = [_known_after_ms(one) for one in found]
    told = [_told(one) for one in found]
    late = max(one.late_p99_ms for one in found)
    served = ", ".join(f"{one.of(200).p99_ms / 1000:.1f}" for one in found)
    sizes = "; ".join("/".join(f"{size / MIB:.0f}" for size in one) for one in memory)
    grown = [last / middle for _, middle, last in memory]
    refusals = sum(one.of(status).count for one in found for status in REFUSALS)
    failures = sum((one.failures() for one in found), Counter())
    other = {why: count for why, count in failures.items() if why not in {str(status) for status in REFUSALS}}
    return [
        median_row(
            "8 refusals under overload, p99",
            refused,
            "ms",
            GOAL_MS,
            "lower",
            f"{refusals} refusals; sent late, p99 {late:.0f} ms",
        ),
        median_row("8   of them with Retry-After", told, "of 1", 1.0),
        median_row(
            "8 goodput over peak",
            ratios([one.rate() for one in found], peaks),
            "times",
            GOAL_GOODPUT,
            note=f"answers took up to (p99) {served} s",
        ),
        median_row("8 memory, last third over middle third", grown, "times", GOAL_MEMORY, "lower", f"MiB {sizes}"),
        Row(
            "  other failures",
            sum(other.values()),
            "",
            0,
            "lower",
            note=", ".join(f"{count} {why}" for why, count in sorted(other.items())),
        ),
    ]


def _known_after_ms(outcome: Outcome) -> float:
    """The p99 of the refusals. Where nothing was refused, nobody knew better before the answer: that of the answers."""
    found = [outcome.of(status).p99_ms for status in REFUSALS if outcome.of(status).counted]
    return max(found, default=outcome.of(200).p99_ms)


def _told(outcome: Outcome) -> float:
    answers = [outcome.of(status) for status in REFUSALS]
    count = sum(one.count for one in answers)
    return sum(one.retry_after for one in answers) / count if count else 1.0


def settle(server: Server, limit_s: float = 60.0) -> None:
    """Wait until the server has put aside what nobody waits for any more. Raises: `RuntimeError` after the limit."""
    began_s = time.monotonic()
    calm = 0
    while calm < 5:
        asked_s = time.monotonic()
        response = server.client.get("/readyz")
        quick = time.monotonic() - asked_s < 0.1 and response.status_code == 200
        calm = calm + 1 if quick and _idle(server) else 0
        if time.monotonic() - began_s > limit_s:
            raise RuntimeError("The server does not come to rest.")
        time.sleep(0.1)


def _idle(server: Server) -> bool:
    before = server.usage().cpu_s
    time.sleep(0.2)
    return server.usage().cpu_s - before < 0.1
