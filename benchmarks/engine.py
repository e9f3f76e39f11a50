"""The engine at its limit: `python -m benchmarks.engine [cpu tasks shell cache adapt maml start overload fairness]`.

Real servers (`imprint serve`, a fresh data folder each), real HTTP over loopback, the bundled checkpoints. Within a row
the contenders take turns, and what counts is the median of their ratios in the rounds. Linux only: CPU seconds and
memory come from /proc. Each row says in its own file (`benchmarks/engine_rows/`) what it measures and how.
"""

import argparse
import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Final

import torch

from benchmarks.engine_rows import adapt, cache, cpu, fairness, maml, overload, shell, start, tasks
from benchmarks.rounds import Scope, tell
from benchmarks.table import Row, arguments, show

ROWS: Final[Mapping[str, Callable[[Scope], list[Row]]]] = {
    "cpu": cpu.measure,
    "tasks": tasks.measure,
    "shell": shell.measure,
    "cache": cache.measure,
    "adapt": adapt.measure,
    "maml": maml.measure,
    "start": start.measure,
    "overload": overload.measure,
    "fairness": fairness.measure,
}
FULL: Final = Scope()


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = arguments(__doc__ or "")
    made.add_argument("rows", nargs="*", default=[], choices=[*ROWS, []], help="which rows; all when left out")
    made.add_argument("--device", choices=["cpu", "cuda"], default=FULL.device, help="where the backbones run")
    made.add_argument("--rounds", type=int, default=FULL.rounds, help="turns of each contender; fewer for a first look")
    made.add_argument("--seconds", type=float, default=FULL.seconds, help="of each turn under load")
    made.add_argument("--tasks", type=int, default=FULL.tasks, help="stored tasks, for the row cache")
    made.add_argument("--distinct", type=int, default=FULL.distinct, help="tasks asked side by side, for the row tasks")
    made.add_argument(
        "--overload-seconds", type=float, default=FULL.overload_s, help="of a round, for the row overload"
    )
    return made


def title(scope: Scope) -> str:
    """How much was measured, and what is less than it should be."""
    lesser = [
        f"{name} {have:g} in place of {full:g}"
        for name, have, full in (
            ("seconds a turn", scope.seconds, FULL.seconds),
            ("tasks", scope.tasks, FULL.tasks),
            ("distinct tasks", scope.distinct, FULL.distinct),
            ("seconds of overload", scope.overload_s, FULL.overload_s),
        )
        if have < full
    ]
    if scope.rounds < FULL.rounds:
        lesser.insert(0, f"rounds {scope.rounds} in place of {FULL.rounds}")
    first_look = f" A FIRST LOOK: {', '.join(lesser)}." if lesser else ""
    load = os.getloadavg()[0]
    return (
        f"The engine on the {scope.device}, medians of {scope.rounds} rounds, interleaved.{first_look} "
        f"Load of the machine before: {load:.1f} on {os.cpu_count()} cores"
    )


def main() -> None:
    """Measure the named rows."""
    options = parser().parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("Torch sees no CUDA device here.")
    scope = Scope(
        device=options.device,
        rounds=options.rounds,
        seconds=options.seconds,
        tasks=options.tasks,
        distinct=options.distinct,
        overload_s=options.overload_seconds,
    )
    # So that the servers are stopped, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # An overloaded server holds thousands of connections; servers and generators inherit the limit.
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    heading, rows = title(scope), list[Row]()
    for name in options.rows or ROWS:
        tell(f"row {name}")
        rows += ROWS[name](scope)
    show(heading, rows, options.json)


if __name__ == "__main__":
    main()
