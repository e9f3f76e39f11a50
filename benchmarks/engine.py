"""The engine at its limit: `python -m benchmarks.engine [cpu tasks shell cache adapt maml start overload fairness]`.

Real servers (`imprint serve`, a fresh data folder each), real HTTP over loopback, the bundled checkpoints. Within a row
the contenders take turns, and what counts is the median of their ratios in the rounds. Linux only: CPU seconds and
memory come from /proc. Each row says in its own file (`benchmarks/engine_rows/`) what it measures and how.
"""

import argparse
import resource
from collections.abc import Callable, Mapping
from typing import Final

from benchmarks import turns
from benchmarks.engine_rows import adapt, cache, cpu, fairness, maml, overload, shell, start, tasks
from benchmarks.rounds import Scope, tell
from benchmarks.table import Row, show
from benchmarks.turns import Measured

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
OWN: Final = (
    Measured("tasks", "tasks", "stored tasks, for the row cache"),
    Measured("distinct", "distinct tasks", "tasks asked side by side, for the row tasks"),
    Measured("overload_seconds", "seconds of overload", "of a round, for the row overload"),
)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    return turns.parser(__doc__ or "", ROWS, FULL, OWN)


def title(scope: Scope) -> str:
    """How much was measured, and what is less than it should be."""
    return turns.title("The engine", scope, FULL, OWN)


def main() -> None:
    """Measure the named rows."""
    options = parser().parse_args()
    turns.make_ready(options.device)
    scope = Scope(**turns.numbers(options, OWN))
    # An overloaded server holds thousands of connections; servers and generators inherit the limit.
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    heading, rows = title(scope), list[Row]()
    for name in options.rows or ROWS:
        tell(f"row {name}")
        rows += ROWS[name](scope)
    show(heading, rows, options.json)


if __name__ == "__main__":
    main()
