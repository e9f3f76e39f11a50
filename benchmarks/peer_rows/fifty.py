"""Row (b), fifty classifiers at once: seconds to make them all, and the memory of the process that holds them.

The peer's server holds one a process, so fifty are held in one process in a dictionary, as its user would; each loads
its encoder, because its documentation has no other way. Ours are fifty tasks on one fresh server, made over HTTP.
"""

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.peer_rows import PeerScope
from benchmarks.peer_rows.beside import beside
from benchmarks.peer_texts import Draw
from benchmarks.pipe import Waiting
from benchmarks.rounds import tell
from benchmarks.table import Row
from benchmarks.text_server import executor_of, make_task, our_server, same_weights, waiting

MANY: Final = 50
MANY_S: Final = 120.0
"""How long the peer makes classifiers; those that are not made by then are reckoned from those that are."""
MANY_IN_ONE: Final = "benchmarks.peer_servers.adaptive_many"
MIB: Final = 2**20


@dataclass(frozen=True)
class Made:
    """Classifiers in one process, one after the other: what each took, and the process's bytes once it was there."""

    seconds: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def all_s(self, among: int) -> float:
        """Seconds for fifty, at the pace of the first so many."""
        return sum(self.seconds[:among]) * MANY / among

    @property
    def each_bytes(self) -> float:
        """Of a further one."""
        return (self.sizes[-1] - self.sizes[0]) / max(1, len(self.sizes) - 1)

    @property
    def all_bytes(self) -> float:
        """With fifty, each further one like those that were made."""
        return self.sizes[0] + (MANY - 1) * self.each_bytes


def fifty(scope: PeerScope, python: Path, peer: str, drawn: Sequence[Draw]) -> list[Row]:
    """Made in turns, one here and one there, as long as the peer's seconds last; then ours alone. The first draw warms
    both up."""
    ours, theirs = Made(), Made()
    with tempfile.TemporaryDirectory(prefix="imprint-bench-") as folder, ExitStack() as stack:
        scratch = Path(folder)
        same = same_weights(scratch)
        aside = stack.enter_context(waiting(python, MANY_IN_ONE, scratch))
        server = stack.enter_context(our_server(scope))
        # The first of each brings packages in, and threads: what it takes is no classifier's.
        by = executor_of(server)
        warm, *others = drawn
        one_of_many(aside, "0", same, warm)
        make_task(server, warm)
        for number, draw in enumerate(others):
            if sum(theirs.seconds) < MANY_S:
                made = one_of_many(aside, str(number), same, draw)
                theirs.seconds.append(made["seconds"])
                theirs.sizes.append(made["resident_bytes"])
            ours.seconds.append(make_task(server, draw)[1])
            ours.sizes.append(server.usage().resident_bytes)
    tell(f"adaptive: {len(theirs.seconds)} of {MANY} took {peer} {sum(theirs.seconds):.0f} s")
    return rows_of(ours, theirs, peer, by)


def rows_of(ours: Made, theirs: Made, peer: str, by: str) -> list[Row]:
    """Seconds and memory; the note says how many were made."""
    count = len(theirs.seconds)
    seconds, size = "theirs in one process, in a dictionary, each with its own encoder", f"resident; ours by {by}"
    if count < MANY:
        seconds += f"; reckoned from the {count} that took {sum(theirs.seconds):.0f} s"
        size += f"; of the peer reckoned from {count}"
    both, title = (ours, theirs), f"b {MANY} classifiers at once"
    took = [[made.all_s(count)] for made in both]
    sizes = [[made.all_bytes / MIB] for made in both]
    each = [[made.each_bytes / MIB] for made in both]
    return [
        *beside(f"{title}, create", peer, took[0], took[1], "s", "lower", seconds),
        *beside(f"{title}, memory", peer, sizes[0], sizes[1], "MiB", "lower", size),
        *beside(f"{title}, memory of a further one", peer, each[0], each[1], "MiB", "lower", size),
    ]


def one_of_many(aside: Waiting, name: str, folder: Path, draw: Draw) -> Any:
    """Make one in the process that holds many."""
    return aside.ask({"name": name, "folder": str(folder), "texts": draw.texts, "labels": draw.labels})
