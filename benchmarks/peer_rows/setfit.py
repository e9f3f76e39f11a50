"""Row (c): SetFit by its documented recipe, on the same MiniLM and the same texts of CLINC150.

20 classes of 8 texts, drawn anew in each round. SetFit trains the encoder on pairs and fits a logistic head: 100 steps
of 16 pairs, where its default for so many texts is one pass over its pairs, some 1,500 steps. The seconds are from the
texts to a classifier that answers, the weights being in memory. SetFit has no server: it predicts in its own process,
while ours, `learner: auto`, answers over HTTP.
"""

import itertools
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.environments import TORCH, installed_versions, python_of
from benchmarks.peer_rows import PeerScope
from benchmarks.peer_rows.beside import beside, points_ahead
from benchmarks.peer_servers.turns import timed
from benchmarks.peer_texts import SHOT, WAY, Draw, draws, others
from benchmarks.pipe import Waiting
from benchmarks.rounds import tell
from benchmarks.served import Server
from benchmarks.table import Row
from benchmarks.text_server import executor_of, labels_of, make_task, our_server, same_weights, waiting

PEER: Final = "SetFit"
REQUIREMENTS: Final = (TORCH, "setfit==1.2.0")
SHOWN: Final = ("setfit", "sentence-transformers")
TRAINER: Final = "benchmarks.peer_servers.setfit_trainer"
STEPS: Final = 100
POOL: Final = 2_000
TOGETHER: Final = 400


@dataclass
class Found:
    """What the rounds brought for one contender: seconds, per cent, predictions a second."""

    create: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    together: list[float] = field(default_factory=list)
    single: list[float] = field(default_factory=list)


def measure(scope: PeerScope) -> list[Row]:
    """Train, predict together, predict one by one."""
    drawn = draws(scope.rounds + 1)
    python = python_of("setfit", REQUIREMENTS, scope.cache)
    ours, theirs = Found(), Found()
    with tempfile.TemporaryDirectory(prefix="imprint-bench-") as folder:
        scratch = Path(folder)
        same = same_weights(scratch)
        with waiting(python, TRAINER, scratch) as trainer, our_server(scope) as server:
            about = f"ours by {executor_of(server)}, {installed_versions(python, SHOWN)}"
            _theirs(scope, trainer, same, drawn[-1], Found(), steps=1)  # to warm up
            _ours(scope, server, drawn[-1], Found())
            for number, draw in enumerate(drawn[: scope.rounds]):
                _ours(scope, server, draw, ours)
                _theirs(scope, trainer, same, draw, theirs)
                tell(f"setfit, round {number + 1} of {scope.rounds}: ours {told(ours)}; {PEER} {told(theirs)}")
    return rows_of(ours, theirs, about)


def rows_of(ours: Found, theirs: Found, about: str) -> list[Row]:
    """What the rounds say."""
    what = f"{WAY} classes of {SHOT} texts, {STEPS} steps; {about}"
    inside = "ours over HTTP, the peer in its own process"
    many = f"{TOGETHER} at a time; {inside}"
    return [
        *beside("c seconds to a classifier", PEER, ours.create, theirs.create, "s", "lower", what),
        *beside("c predictions a second, together", PEER, ours.together, theirs.together, "1/s", "higher", many),
        *beside("c predictions a second, one by one", PEER, ours.single, theirs.single, "1/s", "higher", inside),
        *points_ahead("c accuracy", PEER, ours.accuracy, theirs.accuracy, "the same weights; ours is `auto`"),
    ]


def told(found: Found) -> str:
    """The last round in a line."""
    return (
        f"{found.create[-1]:.2f} s, {found.accuracy[-1]:.1f} %, {found.together[-1]:.0f}/s together, "
        f"{found.single[-1]:.0f}/s one by one"
    )


def _ours(scope: PeerScope, server: Server, draw: Draw, found: Found) -> None:
    task, seconds = make_task(server, draw)
    found.create.append(seconds)
    found.accuracy.append(draw.accuracy(labels_of(server, task, draw.asked)))
    together, single = _parts(len(found.single))
    found.together.append(_rate(together, scope.seconds / 2, server, task))
    found.single.append(_rate(single, scope.seconds / 2, server, task))


def _rate(parts: Sequence[Sequence[str]], least_s: float, server: Server, task: str) -> float:
    """Predictions a second of a client that sends part after part."""
    source = itertools.cycle(parts)
    times_a_second, _ = timed(lambda: labels_of(server, task, next(source)), least_s)
    return times_a_second * len(parts[0])


def _parts(number: int) -> tuple[list[list[str]], list[list[str]]]:
    """The texts of a round, some hundreds at a time, and one by one."""
    texts = others(POOL, number)
    return [texts[start : start + TOGETHER] for start in range(0, POOL, TOGETHER)], [[one] for one in texts]


def _theirs(scope: PeerScope, trainer: Waiting, folder: Path, draw: Draw, found: Found, steps: int = STEPS) -> None:
    def ask(**message: object) -> Any:
        return trainer.ask(message)

    how = {"folder": str(folder), "scratch": str(folder.parent / "runs"), "device": scope.device, "steps": steps}
    found.create.append(ask(texts=draw.texts, labels=draw.labels, **how)["seconds"])
    found.accuracy.append(draw.accuracy(ask(queries=draw.asked)))
    together, single = _parts(len(found.single))
    found.together.append(ask(parts=together, least_s=scope.seconds / 2))
    found.single.append(ask(parts=single, least_s=scope.seconds / 2))
