"""Ours beside its peers: `python -m benchmarks.peers [serving adaptive setfit algorithms]`.

Same machine, same run, same weights. Each peer is installed by pip into a virtual environment of its own at its first
use, under a cache folder; then all contenders take turns, and what counts is the median of their ratios in the rounds.
Linux only: CPU seconds and memory come from /proc. Each row says in its own file (`benchmarks/peer_rows/`) what it
measures and how; what runs in the peers' environments is in `benchmarks/peer_servers/`.
"""

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from benchmarks import turns
from benchmarks.environments import CACHE_VARIABLE, NotInstalled, cache_folder
from benchmarks.peer_rows import PeerScope, adaptive, algorithms, serving, setfit
from benchmarks.rounds import tell
from benchmarks.table import Row, show
from benchmarks.turns import Measured

ROWS: Final[Mapping[str, Callable[[PeerScope], list[Row]]]] = {
    "serving": serving.measure,
    "adaptive": adaptive.measure,
    "setfit": setfit.measure,
    "algorithms": algorithms.measure,
}
FULL: Final = PeerScope()


OWN: Final = (
    Measured("clients", "clients", "connections of each turn under load"),
    Measured("tasks", "tasks", "stored tasks, for the row serving"),
)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = turns.parser(__doc__ or "", ROWS, FULL, OWN)
    made.add_argument(
        "--cache", type=Path, default=cache_folder(), help=f"where peers are installed (or set {CACHE_VARIABLE})"
    )
    return made


def scope_of(options: argparse.Namespace) -> PeerScope:
    """What the command line asks for."""
    return PeerScope(**turns.numbers(options, OWN), cache=options.cache.expanduser().resolve())


def title(scope: PeerScope) -> str:
    """How much was measured, and what is less than it should be."""
    return turns.title("Ours beside its peers", scope, FULL, OWN)


def main() -> None:
    """Measure the named rows."""
    options = parser().parse_args()
    turns.make_ready(options.device)
    scope = scope_of(options)
    heading, rows, left_out = title(scope), list[Row](), list[str]()
    for name in options.rows or ROWS:
        tell(f"row {name}")
        try:
            rows += ROWS[name](scope)
        except NotInstalled as error:
            left_out.append(f"The row {name} is left out: a peer cannot be installed. {error}")
    show(heading, rows, options.json)
    if left_out:
        sys.exit("\n".join(left_out))


if __name__ == "__main__":
    main()
