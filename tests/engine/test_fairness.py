"""The queue over many batches: tasks take turns, none starves, and within a task who came first is first."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from app.engine.budget import Budgets
from app.engine.mailbox import Mailbox
from app.engine.pending import Pending, Slice
from app.engine.queue import WorkQueue
from app.engine.work import Work

OWNER = object()
NOBODY = asyncio.new_event_loop()
"""Of futures that are never looked at."""
NOBODY.close()


def queue_of(sizes: Mapping[str, Sequence[int]], budget: int, head: int = 0) -> WorkQueue:
    """A queue in which these works wait, one after another task by task."""
    queue = WorkQueue(10_000, Budgets(budget))
    queue.hand_over(OWNER)
    for task, some in sizes.items():
        for size in some:
            put(queue, size, task, head)
    return queue


def put(queue: WorkQueue, size: int, task: str | None, head: int = 0) -> Pending:
    work = Work(backbone="a", inputs=torch.zeros(size, 3), head=len, task=task, head_examples=head)
    pending = Pending(work, ("a", (3,), torch.float32), Mailbox(NOBODY), NOBODY.create_future())
    queue.put(pending)
    return pending


def batches_of(queue: WorkQueue) -> list[list[Slice]]:
    """All that waits, in its batches."""
    queue.close()
    found = []
    while (batch := queue.take(OWNER)) is not None:
        found.append(batch)
    return found


def served(batch: Sequence[Slice]) -> Counter[str | None]:
    counts: Counter[str | None] = Counter()
    for one in batch:
        counts[one.pending.work.task] += one.stop - one.start
    return counts


Waiting = st.dictionaries(
    st.sampled_from("abcdefghij"), st.lists(st.integers(0, 9), min_size=1, max_size=12), min_size=1, max_size=10
)


@settings(deadline=None)
@given(Waiting, st.integers(1, 24))
def test_everything_comes_to_its_end_within_the_budget(sizes: dict[str, list[int]], budget: int) -> None:
    batches = batches_of(queue_of(sizes, budget))
    total: Counter[str | None] = Counter()
    for batch in batches:
        assert 1 <= sum(served(batch).values()) <= budget
        total += served(batch)
    assert total == {task: sum(max(1, size) for size in some) for task, some in sizes.items()}


@settings(deadline=None)
@given(Waiting, st.integers(1, 24))
def test_a_task_that_waits_is_served_once_in_a_round(sizes: dict[str, list[int]], budget: int) -> None:
    last = dict.fromkeys(sizes, -1)
    left = {task: sum(max(1, size) for size in some) for task, some in sizes.items()}
    # Half of the room goes by turns, so a round takes so many batches at most.
    round_batches = -(-len(sizes) // (budget - budget // 2))
    for number, batch in enumerate(batches_of(queue_of(sizes, budget))):
        for task, count in served(batch).items():
            assert task is not None
            last[task] = number
            left[task] -= count
        assert all(number - last[task] < round_batches for task, rest in left.items() if rest)


@settings(deadline=None)
@given(st.integers(2, 12), st.integers(1, 24), st.integers(30, 40))
def test_tasks_that_wait_all_the_time_are_served_the_same(tasks: int, budget: int, works: int) -> None:
    names = [str(number) for number in range(tasks)]
    total = Counter(dict.fromkeys(names, 0))
    for batch in batches_of(queue_of({name: [1] * works for name in names}, budget)):
        total.update({str(task): count for task, count in served(batch).items()})
        if max(total.values()) + budget > works:
            break  # one of them is about to have no more
        assert max(total.values()) - min(total.values()) <= 1


@settings(deadline=None)
@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=40), st.integers(1, 9))
def test_within_a_task_who_came_first_is_first(order: list[str], budget: int) -> None:
    queue = queue_of({}, budget)
    came = [put(queue, 1, task) for task in order]
    done = [one.pending for batch in batches_of(queue) for one in batch]
    for task in "abc":
        assert [one for one in done if one.work.task == task] == [one for one in came if one.work.task == task]


def test_a_late_request_of_a_quiet_task_is_in_the_next_batch() -> None:
    queue = queue_of({"loud": [1] * 100}, 8)
    queue.take(OWNER)
    late = put(queue, 1, "quiet")
    batch = queue.take(OWNER)
    assert batch is not None
    assert late in [one.pending for one in batch]


def test_heavy_heads_of_tasks_take_turns() -> None:
    batches = batches_of(queue_of({"loud": [0] * 6, "quiet": [0] * 2}, 8, head=1))
    order = [one.pending.work.task for batch in batches for one in batch]
    assert order[:4] == ["loud", "quiet", "loud", "quiet"]
    assert len(order) == len(batches) == 8, "one in a batch"


def test_works_without_a_task_share_with_none() -> None:
    queue = queue_of({"loud": [1] * 100}, 8)
    alone = [put(queue, 1, None) for _ in range(5)]
    batch = queue.take(OWNER)
    assert batch is not None
    assert set(alone) < {one.pending for one in batch}
