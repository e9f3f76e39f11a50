"""Large support sets on their way through the decoding threads: in pieces, side by side, each waiting for its turn."""

import asyncio
from collections.abc import Callable, Hashable, Sequence
from itertools import pairwise
from typing import TypeVar, final

from app.codecs import Codec, DecodedInput, Gathered, RawExample, RawInput, check_whole
from app.core.errors import ImprintError
from app.core.limits import Limits
from app.services.support_sets import SupportSet, fresh
from app.services.workers import Workers

T = TypeVar("T")


async def fresh_in_pieces(
    workers: Workers,
    codec: Codec,
    raws: Sequence[RawExample],
    limits: Limits,
    first: Callable[[], T],
) -> tuple[T, SupportSet]:
    """What `first` gives, and the set that the examples make by themselves.

    `first` runs in a thread, before anything is decoded, and may run twice. Raises: what it raises, and what `fresh`
    raises.
    """

    def check(raws: Sequence[RawExample], limits: Limits) -> None:
        first()
        check_whole(raws, limits)

    def made(inputs: Sequence[DecodedInput] | None) -> tuple[T, SupportSet]:
        return first(), fresh(codec, raws, limits, inputs)

    return await workers.decode_for(None, made, await decoded_ahead(workers, None, codec, raws, limits, check))


async def decoded_ahead(
    workers: Workers,
    task: Hashable,
    codec: Codec,
    raws: Sequence[RawExample],
    limits: Limits,
    check: Callable[[Sequence[RawExample], Limits], object],
) -> list[DecodedInput] | None:
    """The inputs of examples, after `check` has let them pass; None for a small set, which is no more than one piece.

    A request has one piece on each thread at most, so that whoever comes meanwhile waits for one. Who is cancelled
    leaves a piece on each thread at most. Raises: what `check` raises, and for bad inputs what `decode_inputs` raises.
    """
    if len(raws) <= codec.inputs_a_piece:
        return None
    # Without a task the pieces have their turns together, not each for itself.
    key = object() if task is None else task
    await workers.decode_for(key, check, raws, limits)
    return await _Pieces(workers, key, codec, [one.raw for one in raws]).decoded()


@final
class _Pieces:
    """The inputs of one request, decoded piece by piece."""

    def __init__(self, workers: Workers, key: Hashable, codec: Codec, raws: Sequence[RawInput]) -> None:
        self._workers = workers
        self._key = key
        self._codec = codec
        self._raws = raws
        count = -(-len(raws) // codec.inputs_a_piece)
        edges = [len(raws) * at // count for at in range(count + 1)]
        self._pieces = enumerate([raws[start:stop] for start, stop in pairwise(edges)])
        self._results: dict[int, list[DecodedInput | ImprintError]] = {}
        self._gathered = Gathered()
        self._taken = 0
        self._wanted = True

    async def decoded(self) -> list[DecodedInput]:
        """All of them, in order."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._workers.decode_threads):
                    group.create_task(self._work())
        except BaseExceptionGroup as several:  # no fault of an input: those are results
            raise several.exceptions[0] from None
        return self._gathered.all_of(self._codec, self._raws)

    async def _work(self) -> None:
        """One piece after another, as long as there are any."""
        while self._wanted:
            at, piece = next(self._pieces, (-1, None))
            if piece is None:
                return
            self._results[at] = await self._workers.decode_for(self._key, _decoded, self._codec, piece)
            # In the order of the inputs, whichever comes first: the faults that an answer lists are the first ones.
            while self._wanted and self._taken in self._results:
                self._wanted = self._gathered.take(self._results.pop(self._taken))
                self._taken += 1


def _decoded(codec: Codec, raws: Sequence[RawInput]) -> list[DecodedInput | ImprintError]:
    results = list(codec.decode_many(raws))
    for one in results:
        if isinstance(one, DecodedInput):
            _ = one.sha256  # an example is known by it; reckoned here, it is reckoned side by side
    return results
