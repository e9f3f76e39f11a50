"""The bounded queue between the event loop and the device thread."""

import time
from collections import Counter, OrderedDict
from collections.abc import Hashable
from threading import Condition
from typing import final

from app.core.errors import Busy, DeadlinePassed
from app.engine.batcher import Policy, plan
from app.engine.budget import Budgets
from app.engine.errors import Draining
from app.engine.pending import BatchKey, Pending, Slice

RETRY_AFTER_S = (0.1, 60.0)
"""Least and most that a refused caller is told to wait."""

SMOOTHING = 0.2
"""Weight of the newest batch in the estimate of the throughput, in its cost and in its seconds alike: a heavy head is
paid for in several batches and runs in the last of them."""


@final
class WorkQueue:
    """Waiting works, counted in examples. One owner takes from it: the present device thread.

    Work that was handed out is remembered until the owner asks for more, so that nothing is lost
    when the owner is replaced. Every method is safe from any thread.
    """

    def __init__(self, bound_examples: int, budgets: Budgets, policy: Policy = plan) -> None:
        self._bound_examples = bound_examples
        self._budgets = budgets
        self._policy = policy
        self._condition = Condition()
        self._groups: OrderedDict[BatchKey, OrderedDict[Hashable, dict[Pending, None]]] = OrderedDict()
        self._examples = 0
        self._in_flight: list[Pending] = []
        self._owner: object | None = None
        self._closed = False
        self._busy_since_s: float | None = None
        self._batch_cost = 0
        self._recent_cost = 0.0
        self._recent_s = 0.0

    @property
    def examples(self) -> int:
        """Examples that wait."""
        return self._examples

    @property
    def busy_since_s(self) -> float | None:
        """When the owner took the batch that it has in hand, by `time.monotonic()`; `None` when it has none."""
        return self._busy_since_s

    @property
    def closed(self) -> bool:
        """Does it refuse new works?"""
        return self._closed

    def put(self, pending: Pending) -> None:
        """Add a work, and `ring` afterwards. Raises `Busy` when it does not fit, `Draining` after `close`."""
        cost = pending.left
        with self._condition:
            if self._closed:
                raise Draining("The server is shutting down; send the request again.", retry_after_s=1.0)
            if self._examples and self._examples + cost > self._bound_examples:
                raise Busy(
                    f"{self._examples} examples wait already, of at most {self._bound_examples}; try again later.",
                    retry_after_s=self._retry_after_s(),
                )
            tasks = self._groups.setdefault(pending.key, OrderedDict())
            tasks.setdefault(pending.task, {})[pending] = None
            self._examples += cost

    def ring(self) -> None:
        """Wake the owner: works were put in."""
        with self._condition:
            self._condition.notify()

    def take(self, owner: object) -> list[Slice] | None:
        """The next batch; blocks while there is none.

        Gives `None` when `owner` is not the owner any more, or when the queue is closed and empty.
        Works whose deadline is over fail here, before anything of them is computed.
        """
        with self._condition:
            if owner is self._owner:
                self._learn_throughput()
                self._set_down()
            while owner is self._owner:
                slices = self._next_batch()
                if slices:
                    return slices
                if self._closed:
                    return None
                self._condition.wait()
            return None

    def drop(self, pending: Pending) -> None:
        """Forget a work that nobody waits for any more, or that failed."""
        with self._condition:
            pending.finished = True
            self._remove(pending)

    def expire(self) -> None:
        """Fail the waiting works whose deadline is over, for when the owner is too busy to look."""
        now_s = time.monotonic()
        with self._condition:
            self._fail_expired(self._waiting(), now_s)

    def hand_over(self, owner: object | None) -> list[Pending]:
        """Make another thread the owner. Gives all unfinished works, which are forgotten here: fail them."""
        with self._condition:
            waiting = dict.fromkeys(self._in_flight + self._waiting())
            unfinished = [one for one in waiting if not one.finished]
            self._groups.clear()
            self._examples = 0
            self._set_down()
            self._owner = owner
            self._condition.notify_all()
            return unfinished

    def close(self) -> None:
        """Refuse new works; the owner gets `None` after the last one."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def _next_batch(self) -> list[Slice]:
        while self._groups:
            first, *_ = next(iter(self._groups))  # the backbone whose turn it is
            slices = self._policy(self._groups, self._budgets.of(first))
            if self._fail_expired([one.pending for one in slices], time.monotonic()):
                continue
            for one in slices:
                self._hand_out(one)
            self._to_the_end(slices)
            self._busy_since_s = time.monotonic()
            return slices
        return []

    def _waiting(self) -> list[Pending]:
        return [one for tasks in self._groups.values() for works in tasks.values() for one in works]

    def _to_the_end(self, slices: list[Slice]) -> None:
        """Key and tasks that were served now come last; of the tasks, who got most comes last of all."""
        key = slices[0].pending.key
        tasks = self._groups.get(key)
        if tasks is None:
            return
        served: Counter[Hashable] = Counter()
        for one in slices:
            served[one.pending.task] += one.stop - one.start
        self._groups.move_to_end(key)
        # Sorted as they stood, so that of those who got the same the first is the first again.
        for task in sorted([one for one in tasks if one in served], key=served.__getitem__):
            tasks.move_to_end(task)

    def _hand_out(self, one: Slice) -> None:
        cost = one.stop - one.start
        self._in_flight.append(one.pending)
        self._batch_cost += cost
        self._examples -= cost
        one.pending.taken += cost
        if not one.pending.left:
            self._remove(one.pending)

    def _set_down(self) -> None:
        self._in_flight = []
        self._batch_cost = 0
        self._busy_since_s = None

    def _fail_expired(self, works: list[Pending], now_s: float) -> bool:
        expired = [one for one in works if one.expired(now_s)]
        for one in expired:
            self._remove(one)
            one.fail(DeadlinePassed("The deadline passed while the request waited for the device."))
        return bool(expired)

    def _remove(self, pending: Pending) -> None:
        tasks = self._groups.get(pending.key)
        works = None if tasks is None else tasks.get(pending.task)
        if tasks is None or works is None or pending not in works:
            return
        del works[pending]
        self._examples -= pending.left
        if not works:
            del tasks[pending.task]
        if not tasks:
            del self._groups[pending.key]

    def _learn_throughput(self) -> None:
        if self._busy_since_s is None:
            return
        seconds = max(time.monotonic() - self._busy_since_s, 1e-6)
        self._recent_cost += SMOOTHING * (self._batch_cost - self._recent_cost)
        self._recent_s += SMOOTHING * (seconds - self._recent_s)
        # How long heads take that fit, or adapt weights, does not follow from the size of the batch.
        if all(one.work.scores for one in self._in_flight):
            self._budgets.note(self._in_flight[0].key[0], self._batch_cost, seconds)

    def _retry_after_s(self) -> float:
        if not self._recent_cost:
            return 1.0
        least, most = RETRY_AFTER_S
        return min(most, max(least, self._examples * self._recent_s / self._recent_cost))
