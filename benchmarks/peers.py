"""Ours beside its peers: `python -m benchmarks.peers [serving adaptive setfit algorithms]`.

Same machine, same run, same weights. Each peer is installed by pip into a virtual environment of its own at its first
use, under a cache folder; then all contenders take turns, and what counts is the median of their ratios in the rounds.
Linux only: CPU seconds and memory come from /proc. Each row says in its own file (`benchmarks/peer_rows/`) what it
measures and how; what runs in the peers' environments is in `benchmarks/peer_servers/`.
"""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import torch

from benchmarks.environments import CACHE_VARIABLE, NotInstalled, cache_folder
from benchmarks.peer_rows import PeerScope, adaptive, algorithms, serving, setfit
from benchmarks.rounds import tell
from benchmarks.table import Row, arguments, show

ROWS: Final[Mapping[str, Callable[[PeerScope], list[Row]]]] = {
    "serving": serving.measure,
    "adaptive": adaptive.measure,
    "setfit": setfit.measure,
    "algorithms": algorithms.measure,
}
FULL: Final = PeerScope()


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = arguments(__doc__ or "")
    made.add_argument("rows", nargs="*", default=[], choices=[*ROWS, []], help="which rows; all when left out")
    made.add_argument("--device", choices=["cpu", "cuda"], default=FULL.device, help="where the backbones run")
    made.add_argument("--rounds", type=int, default=FULL.rounds, help="turns of each contender; fewer for a first look")
    made.add_argument("--seconds", type=float, default=FULL.seconds, help="of each turn under load")
    made.add_argument("--clients", type=int, default=FULL.clients, help="connections of each turn under load")
    made.add_argument("--tasks", type=int, default=FULL.tasks, help="stored tasks, for the row serving")
    made.add_argument(
        "--cache", type=Path, default=cache_folder(), help=f"where peers are installed (or set {CACHE_VARIABLE})"
    )
    return made


def scope_of(options: argparse.Namespace) -> PeerScope:
    """What the command line asks for."""
    return PeerScope(
        rounds=options.rounds,
        seconds=options.seconds,
        clients=options.clients,
        tasks=options.tasks,
        device=options.device,
        cache=options.cache.expanduser().resolve(),
    )


def title(scope: PeerScope) -> str:
    """How much was measured, and what is less than it should be."""
    lesser = [
        f"{name} {have:g} in place of {full:g}"
        for name, have, full in (
            ("rounds", scope.rounds, FULL.rounds),
            ("seconds a turn", scope.seconds, FULL.seconds),
            ("clients", scope.clients, FULL.clients),
            ("tasks", scope.tasks, FULL.tasks),
        )
        if have < full
    ]
    first_look = f" A FIRST LOOK: {', '.join(lesser)}." if lesser else ""
    return (
        f"Ours beside its peers on the {scope.device}, medians of {scope.rounds} rounds, interleaved.{first_look} "
        f"Load of the machine before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )


def main() -> None:
    """Measure the named rows."""
    options = parser().parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("Torch sees no CUDA device here.")
    # So that the servers are stopped, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
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
