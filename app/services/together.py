"""Adaptations of weights that wait together run in one call: on threads on a CPU, by `vmap` or a loop elsewhere."""

import logging
import time
from collections.abc import Callable, Sequence
from contextvars import copy_context
from functools import partial
from threading import Thread
from typing import Final, TypeAlias, TypeVar, final
from weakref import WeakKeyDictionary

import torch

from app.core.episode import Features
from app.core.errors import ImprintError
from app.engine.errors import is_out_of_memory
from app.engine.work import Together
from app.learners._weights import WeightLearner
from app.services.builder import AnyLearner
from app.services.heads import Adapted, AdaptWeightsHead, adapted_by_vmap

T = TypeVar("T")

_logger = logging.getLogger(__name__)

MOST: Final = 32
"""Adaptations in one call of an accelerator: what is light waits as long as they take."""

Found: TypeAlias = Sequence[Adapted | ImprintError]


@final
class SideBySide:
    """Says which adaptations may run together, and runs them.

    On a CPU each runs by itself, on one thread of several: so its numbers are those that it has alone, and the small
    convolutions of one leave a second core idle. Elsewhere by `vmap` where that is faster than a loop (`Race`).
    """

    def __init__(self, device: torch.device, threads: int) -> None:
        self._on_cpu = device.type == "cpu"
        self._most = threads if self._on_cpu else MOST
        self._races: WeakKeyDictionary[AnyLearner, Race] = WeakKeyDictionary()

    def of(self, head: AdaptWeightsHead) -> Together[Adapted] | None:
        """Whom a head may run with: same learner, same shapes, so about the same time. None where it runs alone."""
        learner = head.candidate.learner
        able = self._on_cpu or (isinstance(learner, WeightLearner) and learner.vmaps)
        if self._most < 2 or not able:
            return None
        shots = tuple(sorted(head.labels.bincount().tolist()))
        return Together((learner, head.inputs.shape, head.inputs.dtype, shots), self._most, self._run)

    def _run(self, heads: Sequence[AdaptWeightsHead], features: Sequence[Features]) -> Found:
        if self._on_cpu:
            return on_threads([partial(head, own) for head, own in zip(heads, features, strict=True)])
        learner = heads[0].candidate.learner
        race = self._races.get(learner)
        if race is None:
            race = self._races[learner] = Race()
        return race.run(heads, features)


@final
class Race:
    """Whether `vmap` over the tasks beats a loop over them, for one learner on this device.

    Of the first two groups one task goes by the loop, the others by `vmap`. The first warms up; the second decides.
    """

    def __init__(self) -> None:
        self.vmap_pays: bool | None = None
        self._warm = False

    def run(self, heads: Sequence[AdaptWeightsHead], features: Sequence[Features]) -> Found:
        """The adaptations, in the order of the heads."""
        if self.vmap_pays is False:
            return one_by_one(heads, features)
        if self.vmap_pays:
            return self._by_vmap(heads, features)
        started_s = time.perf_counter()
        alone = one_by_one(heads[:1], features[:1])
        middle_s = time.perf_counter()
        others = self._by_vmap(heads[1:], features[1:])
        ended_s = time.perf_counter()
        if self.vmap_pays is None and self._warm:
            self.vmap_pays = (ended_s - middle_s) / len(others) < middle_s - started_s
        self._warm = True
        return [*alone, *others]

    def _by_vmap(self, heads: Sequence[AdaptWeightsHead], features: Sequence[Features]) -> Found:
        try:
            return adapted_by_vmap(heads, features)
        except (RuntimeError, NotImplementedError) as error:
            if is_out_of_memory(error):
                raise
            _logger.warning("adaptations cannot run by vmap here, and go one by one", exc_info=True)
            self.vmap_pays = False
            return one_by_one(heads, features)


def one_by_one(heads: Sequence[AdaptWeightsHead], features: Sequence[Features]) -> Found:
    """A loop."""
    return [_tried(partial(head, own)) for head, own in zip(heads, features, strict=True)]


def on_threads(calls: Sequence[Callable[[], T]]) -> list[T | ImprintError]:
    """Each call on a thread of its own, the last on this one, each with one CPU thread of torch.

    They see this thread's context (`app.core.heartbeat`), without gradients. What a call raises other than an
    `ImprintError` is raised here, after all have ended.
    """
    found: list[T | ImprintError | None] = [None] * len(calls)
    failures: list[BaseException] = []

    def run(index: int) -> None:
        torch.set_num_threads(1)  # each thread of ours has its own number
        try:
            with torch.no_grad():
                found[index] = _tried(calls[index])
        except BaseException as error:  # noqa: BLE001 - raised again below
            failures.append(error)

    before = torch.get_num_threads()
    *others, last = range(len(calls))
    threads = [
        Thread(target=partial(copy_context().run, run, one), name="imprint-adapt", daemon=True) for one in others
    ]
    for thread in threads:
        thread.start()
    try:
        run(last)
        for thread in threads:
            thread.join()
    finally:
        torch.set_num_threads(before)
    if failures:
        # What ends this thread comes before what is wrong with one call.
        raise min(failures, key=lambda error: isinstance(error, Exception))
    return [one for one in found if one is not None]


def _tried(call: Callable[[], T]) -> T | ImprintError:
    try:
        return call()
    except ImprintError as error:
        return error
