"""The policy alone: what goes into the next batch."""

import asyncio
from collections.abc import Hashable, Sequence

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from app.engine.batcher import Tasks, plan
from app.engine.mailbox import Mailbox
from app.engine.pending import BatchKey, Pending, Slice
from app.engine.work import Work

KEY: BatchKey = ("a", (3,), torch.float32)


def pending_of(
    sizes: Sequence[int], key: BatchKey = KEY, head: int = 0, task: str | None = None
) -> dict[Pending, None]:
    loop = asyncio.new_event_loop()
    try:
        mailbox, future = Mailbox(loop), loop.create_future()
    finally:
        loop.close()
    works = [
        Work(backbone=key[0], inputs=torch.zeros(size, 3), head=len, head_examples=head, task=task) for size in sizes
    ]
    return {Pending(work, key, mailbox, future): None for work in works}


def by_task(*works: dict[Pending, None]) -> Tasks:
    """As the queue keeps them, before any was served."""
    tasks: dict[Hashable, dict[Pending, None]] = {}
    for some in works:
        for one in some:
            tasks.setdefault(one.task, {})[one] = None
    return tasks


def rows(slices: Sequence[Slice]) -> list[int]:
    return [one.rows for one in slices]


def costs(slices: Sequence[Slice]) -> list[int]:
    return [one.stop - one.start for one in slices]


def test_nothing_pending_makes_no_batch() -> None:
    assert plan({}, 64) == []


def test_all_goes_into_one_batch_where_the_budget_allows() -> None:
    assert rows(plan({KEY: by_task(pending_of([1, 30, 2]))}, 64)) == [1, 30, 2]


def test_a_large_work_gets_what_the_small_ones_leave_of_half_a_batch() -> None:
    assert rows(plan({KEY: by_task(pending_of([750, 1, 3]))}, 64)) == [28, 1, 3]


def test_a_large_work_alone_gets_a_whole_batch() -> None:
    assert rows(plan({KEY: by_task(pending_of([750]))}, 64)) == [64]


def test_beyond_half_of_a_batch_nobody_gets_more_than_the_next_one_wants() -> None:
    assert rows(plan({KEY: by_task(pending_of([750, 6, 1]))}, 16)) == [6, 6, 1]


def test_two_large_works_share_equally() -> None:
    assert rows(plan({KEY: by_task(pending_of([750, 1, 400]))}, 65)) == [32, 1, 32]


def test_a_work_without_rows_takes_a_place_and_no_rows() -> None:
    assert rows(plan({KEY: by_task(pending_of([0, 5]))}, 6)) == [0, 5]


def test_a_heavy_head_pays_for_its_examples_before_it_runs() -> None:
    heavy, light = pending_of([6], head=10), pending_of([1])
    (work,) = heavy
    paid = []
    while work.left:
        batch = plan({KEY: by_task(heavy, light)}, 8)
        assert costs(batch)[-1] == 1, "the light one is in every batch"
        paid.append((costs(batch)[0], rows(batch)[0]))
        work.taken += costs(batch)[0]
    assert paid == [(3, 3), (3, 3), (3, 0), (7, 0)], "at last all fits"


def test_one_heavy_head_comes_to_its_end_in_a_batch() -> None:
    heavy = pending_of([0, 0, 2], head=1)
    batch = plan({KEY: by_task(heavy, pending_of([4]))}, 64)
    assert costs(batch) == [1, 2, 4], "the oldest; the second waits; the third's rows go through the backbone"
    assert rows(batch) == [0, 2, 4]


def test_a_batch_is_of_the_first_key_alone() -> None:
    other: BatchKey = ("b", (3,), torch.float32)
    groups = {other: by_task(pending_of([2], other)), KEY: by_task(pending_of([2]))}
    assert [one.pending.key for one in plan(groups, 64)] == [other]


def test_many_large_works_do_not_shut_out_a_late_small_one() -> None:
    works = pending_of([*[100] * 20, 1])
    batch = plan({KEY: by_task(works)}, 8)
    assert list(works)[-1] in [one.pending for one in batch]
    assert next(iter(works)) in [one.pending for one in batch], "and the oldest is not starved by small ones"


def full(wanted: list[int], budget: int) -> int:
    """How large a batch is to be: all where it fits; else half the budget, and more as long as two want it."""
    if sum(wanted) <= budget or len(wanted) == 1:
        return min(budget, sum(wanted))
    # With more who wait than there are places, those that are looked at want one at least.
    capped = sorted(min(one, budget) for one in wanted)
    return min(budget, max((budget + 1) // 2, sum(capped[:-1]) + capped[-2]))


@settings(deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=30), st.integers(1, 32))
def test_a_batch_is_full_or_holds_everything_and_is_max_min_fair(sizes: list[int], budget: int) -> None:
    works = pending_of(sizes)
    batch = plan({KEY: by_task(works)}, budget)
    taken = {one.pending: max(1, one.stop - one.start) for one in batch}
    assert sum(taken.values()) == full([one.left for one in works], budget)
    assert [one for one in works if one in taken] == [one.pending for one in batch], "in the order of age"
    for one, share in taken.items():
        assert 1 <= share <= one.left
        if share < one.left:
            assert max(taken.values()) <= share + 1, "who gets less than it wants gets as much as anyone"


def test_a_task_with_many_requests_gets_no_more_than_one_with_few() -> None:
    loud, quiet = pending_of([1] * 50, task="loud"), pending_of([1] * 6, task="quiet")
    batch = plan({KEY: by_task(loud, quiet)}, 8)
    assert [one.pending.work.task for one in batch].count("quiet") == 4
    assert {one.pending for one in batch} == {*list(loud)[:4], *list(quiet)[:4]}, "within a task by age"


def test_a_task_gets_what_the_others_leave_of_half_a_batch() -> None:
    loud, quiet = pending_of([1] * 50, task="loud"), pending_of([1], task="quiet")
    batch = plan({KEY: by_task(loud, quiet)}, 8)
    assert [one.pending.work.task for one in batch] == ["loud"] * 3 + ["quiet"]


def test_a_large_work_of_a_task_leaves_room_for_its_small_ones() -> None:
    assert rows(plan({KEY: by_task(pending_of([750, 1, 3], task="one"))}, 64)) == [60, 1, 3]


Waiting = st.dictionaries(
    st.sampled_from("abcdefghij"), st.lists(st.integers(0, 9), min_size=1, max_size=12), min_size=1, max_size=10
)


@settings(deadline=None)
@given(Waiting, st.integers(1, 24))
def test_a_batch_is_full_or_holds_everything_and_is_fair_to_tasks(sizes: dict[str, list[int]], budget: int) -> None:
    tasks = by_task(*(pending_of(some, task=task) for task, some in sizes.items()))
    wanted = {task: sum(one.left for one in works) for task, works in tasks.items()}
    got = dict.fromkeys(wanted, 0)
    for one in plan({KEY: tasks}, budget):
        got[str(one.pending.task)] += one.stop - one.start
        assert 1 <= one.stop - one.start <= one.pending.left
    assert sum(got.values()) == full(list(wanted.values()), budget)
    for task, share in got.items():
        if share < wanted[task]:
            assert max(got.values()) <= share + 1, "who gets less than it wants gets as much as anyone"
