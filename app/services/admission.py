"""Admission: how much may wait, in seconds of work. What would wait longer is refused before anything is decoded."""

import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol, final, runtime_checkable

from app.core.errors import Busy

ENOUGH: Final = 64
"""Examples that may always wait, however slow the backbone: where so many do all the time, it gives what it can."""

AT_FIRST: Final = 512
"""Examples that may wait as long as the backbone was never seen at its limit."""

SPAN_S: Final = 0.5
"""What is done is counted over spans of so many seconds at least."""

SMOOTHING: Final = 0.3
"""Weight of the newest span in the estimate of the throughput."""

RETRY_AFTER_S: Final = (0.1, 60.0)
"""Least and most that a refused caller is told to wait."""


@runtime_checkable
class AdmissionObserver(Protocol):
    """Called on the event loop: be quick, raise nothing."""

    def on_waiting(self, backbone: str, examples: int) -> None:
        """So many examples are in the server and not computed."""

    def on_refused(self, backbone: str) -> None:
        """A request was told to come back later."""


@final
class Admission:
    """Counts, for each backbone, what was let in and is not computed yet: decoding, queued or on the device.

    What a request has before it, dealt fairly among tasks, over what the backbone was seen to do, must stay under
    `bound_s`.
    """

    def __init__(
        self, bound_s: float, observer: AdmissionObserver, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._bound_s = bound_s
        self._observer = observer
        self._clock = clock
        self._lanes: dict[str, Lane] = {}

    def check(self, backbone: str, task: str) -> None:
        """Raises `Busy` where not even one example of the task would be let in now."""
        self._let_in(self._lane(backbone), task, 1)

    @contextmanager
    def admitted(
        self, backbone: str, task: str | None, examples: int, computed: Callable[[], int] | None = None
    ) -> Iterator[None]:
        """Count a request's examples as long as the block lasts. Raises `Busy`, and then counts nothing.

        Without a `task` the request stands for itself. `computed` says afterwards how many of the examples the device
        computed, where that may be fewer: what needs no forward says nothing about how fast forwards are.
        """
        lane, cost = self._lane(backbone), max(1, examples)
        key: Hashable = object() if task is None else task
        self._let_in(lane, key, cost)
        lane.add(key, cost, self._clock())
        self._observer.on_waiting(backbone, lane.examples)
        done = 0
        try:
            yield
            done = cost if computed is None else min(cost, computed())
        finally:
            lane.remove(key, cost, done, self._clock())
            self._observer.on_waiting(backbone, lane.examples)

    def _lane(self, backbone: str) -> "Lane":
        lane = self._lanes.get(backbone)
        if lane is None:
            lane = self._lanes[backbone] = Lane(backbone, self._clock())
        return lane

    def _let_in(self, lane: "Lane", key: Hashable, cost: int) -> None:
        rate = lane.throughput.rate
        room = AT_FIRST if rate is None else max(ENOUGH, self._bound_s * rate)
        if lane.examples < room:
            return
        before = lane.before(key, cost)
        if before < room:
            return
        self._observer.on_refused(lane.backbone)
        least, most = RETRY_AFTER_S
        raise Busy(
            f"{before} examples wait before this request already; try again later.",
            retry_after_s=min(most, max(least, before / rate)) if rate else least,
        )


@final
class Lane:
    """What waits for one backbone, by task."""

    def __init__(self, backbone: str, now_s: float) -> None:
        self.backbone = backbone
        self.examples = 0
        self.throughput = Throughput(now_s)
        self._waiting: dict[Hashable, int] = {}

    def add(self, key: Hashable, cost: int, now_s: float) -> None:
        """Count what was let in."""
        self._waiting[key] = self._waiting.get(key, 0) + cost
        self.examples += cost
        self.throughput.note(self.examples, 0, now_s)

    def remove(self, key: Hashable, cost: int, done: int, now_s: float) -> None:
        """Count what waits no longer; `done` of it was computed."""
        self._waiting[key] -= cost
        if not self._waiting[key]:
            del self._waiting[key]
        self.examples -= cost
        self.throughput.note(self.examples, done, now_s)

    def before(self, key: Hashable, cost: int) -> int:
        """Examples that come before a request's last one, or with it, where all tasks are dealt the same.

        Of each other task that is as much as the request's own task then has, or all where it has less: a large request
        is not held against small ones, nor one task's hundred requests against the only one of another.
        """
        own = self._waiting.get(key, 0)
        return own + sum(min(one, own + cost) for other, one in self._waiting.items() if other != key)


@final
class Throughput:
    """Examples a second that a backbone does when it has enough to do; `None` until it was seen.

    While enough waits all the time, what gets done is the most that can be. At other times it only says that at least
    so much can be.
    """

    def __init__(self, now_s: float) -> None:
        self.rate: float | None = None
        self._since_s = now_s
        self._done = 0
        self._least = 0

    def note(self, waiting: int, done: int, now_s: float) -> None:
        """So many were done just now, and so many wait from now on.

        A span ends where something is done, before that is counted: a batch gets done all at once, and so whole
        batches are counted over the time from one to another.
        """
        elapsed_s = now_s - self._since_s
        if done and self._done and elapsed_s >= SPAN_S:
            self._learn(self._done / elapsed_s, at_its_limit=self._least >= ENOUGH)
            self._since_s, self._done, self._least = now_s, 0, waiting
        self._done += done
        self._least = min(self._least, waiting)

    def _learn(self, seen: float, *, at_its_limit: bool) -> None:
        if self.rate is None:
            self.rate = seen if at_its_limit else None
        elif at_its_limit or seen > self.rate:
            self.rate += SMOOTHING * (seen - self.rate)
