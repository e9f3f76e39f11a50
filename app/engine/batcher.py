"""The batching policy: a pure function of the pending work and the budget. Replace it here."""

from collections.abc import Callable, Hashable, Iterable, Mapping
from heapq import nsmallest
from itertools import islice
from typing import TypeAlias, TypeVar

from app.engine.pending import BatchKey, Pending, Slice

Works: TypeAlias = Mapping[Pending, None]
"""Pending works of one task, oldest first."""

Tasks: TypeAlias = Mapping[Hashable, Works]
"""Pending works by task; the task that was served longest ago, or least, comes first."""

Groups: TypeAlias = Mapping[BatchKey, Tasks]
"""Pending works by key; the key that was served longest ago comes first."""

Policy: TypeAlias = Callable[[Groups, int], list[Slice]]

T = TypeVar("T")
H = TypeVar("H", bound=Hashable)


def plan(groups: Groups, budget: int) -> list[Slice]:
    """Choose the next batch, at most `budget` examples, all of one key; empty when nothing is pending.

    Nothing waits for more to come. Keys take turns, so that no backbone starves another. Within a batch the examples
    are shared max-min fairly among tasks, then among the works of each: who wants more than its share gets what the
    others leave, up to `_room`. So a large adaptation rides along in slices, a lone predict is in the very next batch,
    and a task with a hundred requests gets no more than one with ten as long as both wait. A heavy head runs once its
    cost was handed out like rows, one in a batch with those that can run beside it, so that what is light waits for
    one at most. The slices come in the order of age.
    """
    if not groups:
        return []
    tasks = next(iter(groups.values()))
    shares = _whole(tasks, budget) or _shared(tasks, budget)
    chosen = list(shares)
    # In the order of tasks, so that heavy heads take turns too: a task that gets nothing now keeps its place.
    ready = [one for one in chosen if one.work.head_examples and shares[one] == one.left]
    for one in _held_back(ready):
        shares[one] -= 1
    chosen.sort(key=lambda one: one.queued_at_s)
    return [Slice(one, one.taken, one.taken + shares[one]) for one in chosen if shares[one]]


def _whole(tasks: Tasks, budget: int) -> dict[Pending, int] | None:
    """What is left of every work, where all of it fits: then there is nothing to share out."""
    shares: dict[Pending, int] = {}
    for works in tasks.values():
        for one in works:
            shares[one] = left = one.left
            budget -= left
            if budget < 0:
                return None
    return shares


def _shared(tasks: Tasks, budget: int) -> dict[Pending, int]:
    """What each work that is chosen gets, in the order of tasks."""
    wishes = {task: _wish(tasks[task], budget) for task in _some(tasks, budget, _oldest_left)}
    rooms = _max_min_shares(wishes, _room(wishes, budget))
    shares: dict[Pending, int] = {}
    for task in wishes:
        some = {one: one.left for one in _some(tasks[task], rooms[task], _left)}
        given = _max_min_shares(some, rooms[task])
        shares |= {one: given[one] for one in some}
    return shares


def _held_back(ready: list[Pending]) -> list[Pending]:
    """Of heavy heads whose cost is handed out: all but the first and those that run together with it."""
    if len(ready) < 2:
        return []
    first, *others = ready
    joint = first.work.together
    if joint is None:
        return others
    able = [one.work.together == joint for one in others]
    return [one for index, one in enumerate(others) if not able[index] or sum(able[:index]) >= joint.most - 1]


def _some(items: Mapping[H, T], most: int, left: Callable[[H, T], int]) -> list[H]:
    """At most one an example. Where there are more, half of the room goes by the order, so that nothing
    starves, and half to what is nearly done, so that old and large works cannot shut out small ones."""
    if len(items) <= most:
        return list(items)
    first = list(islice(items, most - most // 2))
    rest = islice(items.items(), len(first), None)
    nearly_done = nsmallest(most // 2, enumerate(rest), key=lambda at: (left(*at[1]), at[0]))
    return first + [one for _, (one, _) in sorted(nearly_done, key=lambda at: at[0])]


def _left(one: Pending, _: None) -> int:
    return one.left


def _oldest_left(_: Hashable, works: Works) -> int:
    return next(iter(works)).left


def _wish(works: Iterable[Pending], budget: int) -> int:
    """What a task would take of a batch if it were alone."""
    wish = 0
    for one in works:
        wish += one.left
        if wish >= budget:
            return budget
    return wish


def _room(wishes: Mapping[H, int], budget: int) -> int:
    """How much of the budget tasks may have together.

    Where not all fits, one of them alone does not fill more than half of it: beyond that, it gets no more than the one
    that wants most beside it. What the others send meanwhile waits for the whole batch, and not for a loud task's part.
    """
    wanted = sum(wishes.values())
    if wanted <= budget or len(wishes) < 2:
        return budget
    *_, next_most, most = sorted(wishes.values())
    return min(budget, max(wanted - most + next_most, -(-budget // 2)))


def _max_min_shares(wishes: Mapping[H, int], budget: int) -> dict[H, int]:
    """Water filling: from the smallest wish to the largest, each gets its wish or an equal part of the rest."""
    shares: dict[H, int] = {}
    by_wish = sorted(wishes, key=lambda one: wishes[one])
    for served, one in enumerate(by_wish):
        # Rounded up, so that no example of the budget is left over; ties go to what stands first.
        fair = -(-budget // (len(by_wish) - served))
        shares[one] = min(wishes[one], fair)
        budget -= shares[one]
    return shares
