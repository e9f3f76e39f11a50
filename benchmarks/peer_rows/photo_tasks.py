"""Tasks of photographs with labels, for servers that are compared: some to learn from, others to ask about.

Clothing where IMPRINT_DATA has it: examples are drawn from its training part, queries from its test part. Elsewhere ten
labels are made up, each a few pictures of smooth noise of which every photograph is another cut.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np

from benchmarks import data
from benchmarks.bodies import photographs
from benchmarks.setting_up import SHOT, WAY

MADE_UP_LABELS: Final = 10
MADE_UP_EACH: Final = 16
Support: TypeAlias = Mapping[str, Sequence[bytes]]
"""Files by label."""


@dataclass(frozen=True)
class Query:
    """A photograph that some task is asked about, and what it shows."""

    task: str
    file: bytes
    label: str


@dataclass(frozen=True)
class Asked:
    """The tasks by name, and the queries."""

    tasks: Mapping[str, Support]
    queries: Sequence[Query]
    real: bool


def asked(tasks: int, queries: int, seed: int = 0) -> Asked:
    """Draw tasks of five labels with five photographs each, and queries that go round the tasks."""
    draw = np.random.default_rng(seed)
    folder = os.environ.get("IMPRINT_DATA")
    real = bool(folder) and (Path(folder or "") / "clothing").is_dir()
    learn, ask = (_clothing("train"), _clothing("test")) if real else _made_up()
    found = {f"task-{number}": _support(learn, draw) for number in range(tasks)}
    names = list(found)
    some = [_query(name, list(found[name]), ask, draw) for name in (names * (queries // tasks + 1))[:queries]]
    return Asked(found, some, real)


def _support(learn: Support, draw: np.random.Generator) -> Support:
    labels = draw.choice(sorted(learn), WAY, replace=False)
    return {str(one): [learn[one][at] for at in draw.choice(len(learn[one]), SHOT, replace=False)] for one in labels}


def _query(task: str, labels: Sequence[str], ask: Support, draw: np.random.Generator) -> Query:
    label = labels[int(draw.integers(len(labels)))]
    return Query(task, ask[label][int(draw.integers(len(ask[label])))], label)


def _clothing(part: str) -> Support:
    rows = sorted(data.clothing(part), key=itemgetter(1))
    return {label: [file for file, _ in some] for label, some in groupby(rows, itemgetter(1))}


@cache
def _made_up() -> tuple[Support, Support]:
    each = {f"label {number}": photographs(MADE_UP_EACH, 1_000 + number) for number in range(MADE_UP_LABELS)}
    half = MADE_UP_EACH // 2
    return {one: files[:half] for one, files in each.items()}, {one: files[half:] for one, files in each.items()}
