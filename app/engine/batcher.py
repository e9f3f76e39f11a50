"""The batching policy: a pure function of the pending work and the budget. Replace it here."""

from collections.abc import Callable, Iterable, Mapping
from heapq import nsmallest
from itertools import islice
from typing import TypeAlias

from app.engine.pending import BatchKey, Pending, Slice

Groups: TypeAlias = Mapping[BatchKey, Mapping[Pending, None]]
"""Pending works by key, oldest first; the key that was served longest ago comes first."""

Policy: TypeAlias = Callable[[Groups, int], list[Slice]]


def plan(groups: Groups, budget: int) -> list[Slice]:
    """Choose the next batch, at most `budget` examples, all of one key; empty when nothing is pending.

    Nothing waits for more to come. Keys take turns, so that no backbone starves another. Within a
    batch the examples are shared max-min fairly: a work that wants more than its share gets what the
    smaller ones leave. So a large adaptation rides along in slices, and a lone predict is in the very
    next batch. A heavy head runs once its cost was handed out like rows, one in a batch, so that what is light
    waits for one at most. The slices come in the order of age.
    """
    if not groups:
        return []
    chosen = _chosen(next(iter(groups.values())), budget)
    shares = _max_min_shares(chosen, budget)
    ready = [one for one in chosen if one.work.head_examples and shares[one] == one.left]
    for one in ready[1:]:
        shares[one] -= 1
    return [Slice(one, one.taken, one.taken + shares[one]) for one in chosen if shares[one]]


def _chosen(works: Mapping[Pending, None], budget: int) -> list[Pending]:
    """At most one work an example. Where there are more, half of the room goes by age, so that nothing
    starves, and half to what is nearly done, so that old and large works cannot shut out small ones."""
    if len(works) <= budget:
        return list(works)
    oldest = list(islice(works, budget - budget // 2))
    rest = islice(works, len(oldest), None)
    nearly_done = nsmallest(budget // 2, enumerate(rest), key=lambda at: (at[1].left, at[0]))
    return oldest + [one for _, one in sorted(nearly_done, key=lambda at: at[0])]


def _max_min_shares(works: Iterable[Pending], budget: int) -> dict[Pending, int]:
    """Water filling: from the smallest wish to the largest, each gets its wish or an equal part of the rest."""
    shares: dict[Pending, int] = {}
    by_wish = sorted(works, key=lambda one: one.left)
    for served, one in enumerate(by_wish):
        # Rounded up, so that no example of the budget is left over; ties go to the older work.
        fair = -(-budget // (len(by_wish) - served))
        shares[one] = min(one.left, fair)
        budget -= shares[one]
    return shares
