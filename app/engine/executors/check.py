"""Does an executor embed as torch does, and how fast is it?"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Final, TypeAlias, final

import torch
from jaxtyping import Shaped
from torch import Tensor

from app.core.episode import Features
from app.engine.executors._base import Executor

TOLERANCE: Final = 1e-4
"""How far an embedding may lie from torch's, over its length; a cosine of 0.999999995 or more follows from it."""

ROUNDS: Final = 7
LEAST_ROUNDS: Final = 3
PATIENCE_S: Final = 0.5
"""After so long no further round begins, once there are `LEAST_ROUNDS`."""
HOPELESS: Final = 2.0
"""Who takes so many times as long as the fastest is measured no further."""
NEARLY: Final = 1.05
"""So much longer an example may take in a batch that makes those behind it wait less."""
FEW: Final = 8
"""Measured beside one alone and a whole micro-batch."""


@final
class EmbedsOtherwise(Exception):
    """The executor's answers are not torch's."""


def check(executor: Executor, inputs: Shaped[Tensor, "n ..."], reference: Features, briefly: bool = False) -> None:
    """Compare the embedding of one input alone with torch's, and unless `briefly` those of all inputs together.

    Raises: `EmbedsOtherwise`.
    """
    middle = len(inputs) // 2
    for rows in (slice(middle, middle + 1), slice(None))[: 1 if briefly else 2]:
        off = deviation(executor.embed([inputs[rows]]), reference[rows])
        if not off <= TOLERANCE:
            raise EmbedsOtherwise(f"its embeddings differ from torch's by {off:.1e} of their length")


def deviation(features: Shaped[Tensor, "n dim"], wanted: Shaped[Tensor, "n2 dim2"]) -> float:
    """The largest distance of a row from the wanted one, over the length of that; infinite where a shape differs."""
    if features.shape != wanted.shape:
        return float("inf")
    # A row of zeros has no length; it is held to the tolerance itself.
    lengths = wanted.norm(dim=1)
    return float(((features - wanted).norm(dim=1) / torch.where(lengths > 0, lengths, 1.0)).max())


Times: TypeAlias = dict[str, dict[int, float]]
"""Milliseconds an example, by executor and by the size of the batch."""


@dataclass(frozen=True)
class Measured:
    """What executors take, by the clock and in CPU time of all threads."""

    example_ms: Times
    example_cpu_ms: Times

    def fastest_first(self) -> list[str]:
        """The names by the product of all their times: twice as fast alone is worth twice as fast in a batch.

        By both clocks, since on a busy machine one says how it is shared, and the other forgets what waits.
        """
        return sorted(
            self.example_ms,
            key=lambda name: prod([*self.example_ms[name].values(), *self.example_cpu_ms[name].values()]),
        )

    def enough_examples(self, name: str) -> int | None:
        """The smallest batch in which an example costs nearly as little as in any; `None` where none was measured.

        One alone is not enough even where a forward gains nothing: a batch costs something beside its forward.
        """
        cpu_ms = self.example_cpu_ms.get(name)
        if not cpu_ms:
            return None
        nearly_ms = NEARLY * min(cpu_ms.values())
        return max(FEW, min(examples for examples, spent_ms in cpu_ms.items() if spent_ms <= nearly_ms))


def measure(executors: Sequence[Executor], inputs: Shaped[Tensor, "n ..."]) -> Measured:
    """What an example takes in a batch of one, of a few, and of a whole micro-batch.

    In turns, and the least of several rounds: what else runs on the machine only adds. Who is far behind after a
    round leaves, with the time that it has.
    """
    found = Measured({one.name: {} for one in executors}, {one.name: {} for one in executors})
    middle = len(inputs) // 2
    for examples in sorted({1, FEW, executors[0].most_examples}):
        rows = inputs[torch.arange(middle, middle + examples) % len(inputs)]
        end_s = time.monotonic() + PATIENCE_S
        left = list(executors)
        # The first of them warms up: some plan for a new shape.
        for turn in range(ROUNDS):
            if turn > LEAST_ROUNDS and time.monotonic() > end_s:
                break
            for one in left:
                spent_ms, cpu_ms = _embed_ms(one, rows)
                if turn:
                    _keep_least(found.example_ms[one.name], examples, spent_ms)
                    _keep_least(found.example_cpu_ms[one.name], examples, cpu_ms)
            if turn:
                least_ms = min(found.example_ms[one.name][examples] for one in left)
                left = [one for one in left if found.example_ms[one.name][examples] <= HOPELESS * least_ms]
    return found


def _embed_ms(executor: Executor, rows: Shaped[Tensor, "n ..."]) -> tuple[float, float]:
    """Milliseconds an example by the clock, and of the CPU."""
    started_s, cpu_s = time.perf_counter(), time.process_time()
    executor.embed([rows])
    a_ms = 1000 / len(rows)
    return (time.perf_counter() - started_s) * a_ms, (time.process_time() - cpu_s) * a_ms


def _keep_least(times: dict[int, float], examples: int, spent_ms: float) -> None:
    times[examples] = min(spent_ms, times.get(examples, spent_ms))
