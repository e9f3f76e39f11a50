"""How much may wait: by a backbone's seen throughput, fairly among tasks, with nothing left counted."""

import asyncio
from collections.abc import Callable
from contextlib import ExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.errors import Busy
from app.services.admission import AT_FIRST, ENOUGH, Admission, Throughput
from app.services.turns import Turns


class Clock:
    """Stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Seen:
    """What an observer was told."""

    def __init__(self) -> None:
        self.waiting: dict[str, int] = {}
        self.refused: list[str] = []

    def on_waiting(self, backbone: str, examples: int) -> None:
        self.waiting[backbone] = examples

    def on_refused(self, backbone: str) -> None:
        self.refused.append(backbone)


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def admission(seen: Seen, clock: Clock) -> Admission:
    """Two seconds may wait; the backbone "a" was seen to do 100 examples a second."""
    made = Admission(2.0, seen, clock)
    with made.admitted("a", "before", ENOUGH):
        for _ in range(4):
            with made.admitted("a", "one", 100):
                clock.now_s += 1.0
    return made


def fill(held: ExitStack, admission: Admission, task: str | None, most: int = 10_000) -> int:
    """Let in one example after another, until one is refused; how many were let in."""
    for number in range(most):
        try:
            held.enter_context(admission.admitted("a", task, 1))
        except Busy:
            return number
    return most


@pytest.mark.parametrize(("computed", "room"), [(lambda: 0, 200), (lambda: 100, 200), (None, 1400)])
def test_only_what_was_computed_says_how_fast_the_backbone_is(
    admission: Admission, clock: Clock, computed: Callable[[], int] | None, room: int
) -> None:
    with admission.admitted("a", "before", ENOUGH):
        for _ in range(4):
            with admission.admitted("a", "one", 1000, computed):
                clock.now_s += 1.0
    with ExitStack() as held:
        assert fill(held, admission, "one") == pytest.approx(room, rel=0.2)


def test_so_many_seconds_of_work_may_wait(admission: Admission, seen: Seen) -> None:
    with ExitStack() as held:
        assert fill(held, admission, "one") == 200
        assert seen.waiting == {"a": 200}
        assert seen.refused == ["a"]
        with pytest.raises(Busy) as refused, admission.admitted("a", "one", 1):
            pass
        assert refused.value.retry_after_s == pytest.approx(2.0)
    assert seen.waiting == {"a": 0}


def test_another_backbone_has_room_of_its_own(admission: Admission) -> None:
    with ExitStack() as held:
        fill(held, admission, "one")
        held.enter_context(admission.admitted("b", "one", 1))


def test_a_backbone_that_was_never_at_its_limit_is_not_held_to_what_it_did_with_little(
    seen: Seen, clock: Clock
) -> None:
    admission = Admission(2.0, seen, clock)
    for _ in range(5):
        with admission.admitted("a", "one", 1):
            clock.now_s += 1.0
    with ExitStack() as held:
        assert fill(held, admission, "one") == AT_FIRST


def test_a_large_request_is_let_in_where_nothing_waits(admission: Admission, seen: Seen) -> None:
    with admission.admitted("a", "one", 1_000):
        assert seen.waiting == {"a": 1_000}
        with pytest.raises(Busy), admission.admitted("a", "one", 1):
            pass
        with admission.admitted("a", "two", 1):
            assert seen.waiting == {"a": 1_001}
        with pytest.raises(Busy), admission.admitted("a", "two", 1_000):
            pass


def test_some_may_always_wait_however_slow_the_backbone(seen: Seen, clock: Clock) -> None:
    admission = Admission(2.0, seen, clock)
    with admission.admitted("a", "before", ENOUGH):
        for _ in range(3):
            with admission.admitted("a", "one", 1):
                clock.now_s += 100.0
    with ExitStack() as held:
        assert fill(held, admission, "one") == ENOUGH


def test_the_backlog_of_one_task_does_not_shut_out_others(admission: Admission) -> None:
    with ExitStack() as held:
        assert fill(held, admission, "loud") == 200
        for number in range(10):
            assert fill(held, admission, f"quiet {number}", 5) == 5
        assert fill(held, admission, "loud") == 0


def test_requests_without_a_task_stand_for_themselves(admission: Admission) -> None:
    with ExitStack() as held:
        fill(held, admission, "loud")
        assert fill(held, admission, None) == 199, "each counts as a task of its own, beside the loud one"


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c", None]), st.integers(0, 500)), max_size=60))
def test_what_waits_is_bounded_and_nothing_stays_counted(requests: list[tuple[str | None, int]]) -> None:
    seen, clock = Seen(), Clock()
    admission = Admission(2.0, seen, clock)
    with admission.admitted("a", "before", ENOUGH):
        for _ in range(3):
            with admission.admitted("a", "b", 100):
                clock.now_s += 1.0
    largest = max((max(1, size) for _, size in requests), default=0)
    with ExitStack() as held:
        for task, size in requests:
            try:
                held.enter_context(admission.admitted("a", task, size))
            except Busy:
                assert seen.waiting["a"] >= 200
            assert seen.waiting["a"] <= 200 + 3 * largest + len(requests)
    assert seen.waiting["a"] == 0


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError, Busy])
def test_a_request_that_fails_is_not_counted_any_more_nor_as_done(
    admission: Admission, seen: Seen, clock: Clock, error: type[BaseException]
) -> None:
    rate = admission._lanes["a"].throughput.rate

    def fail() -> None:
        with admission.admitted("a", "one", 1_000):
            clock.now_s += 1.0
            raise error("no")

    for _ in range(5):
        with pytest.raises(error):
            fail()
    assert seen.waiting == {"a": 0}
    assert admission._lanes["a"].throughput.rate == rate


def test_the_throughput_is_that_of_whole_batches() -> None:
    throughput = Throughput(0.0)
    for batch in range(10):
        for _ in range(64):
            throughput.note(1_000, 1, batch * 0.64)
    assert throughput.rate == pytest.approx(100.0)


def test_the_throughput_falls_only_where_enough_waits() -> None:
    throughput = Throughput(0.0)
    for second in range(5):
        throughput.note(1_000, 100, float(second))
    for second in range(5, 50):
        throughput.note(ENOUGH - 1, 10, float(second))
    assert throughput.rate == pytest.approx(100.0)
    for second in range(50, 100):
        throughput.note(ENOUGH, 10, float(second))
    assert throughput.rate == pytest.approx(10.0, rel=0.01)
    throughput.note(0, 200, 101.0)
    throughput.note(0, 200, 102.0)
    assert throughput.rate > 50


def test_turns_go_round_the_tasks_and_a_caller_that_goes_gives_its_turn_away() -> None:
    async def scene() -> list[str]:
        turns, order, gate = Turns(1), [], asyncio.Event()

        async def one(task: str | None, name: str) -> None:
            async with turns.turn(task):
                await gate.wait()
                order.append(name)

        names = ["a1", "a2", "a3", "b1", "b2", "-", "+"]
        running = {name: asyncio.create_task(one(name[0] if len(name) > 1 else None, name)) for name in names}
        await asyncio.sleep(0)
        running["a2"].cancel()
        await asyncio.sleep(0)
        running["a1"].cancel()
        await asyncio.sleep(0)
        gate.set()
        await asyncio.wait(running.values())
        async with turns.turn("a"):
            pass
        return order

    # a1 had the only place, a2 waited: both are gone.
    assert asyncio.run(scene()) == ["a3", "b1", "-", "+", "b2"]


def test_a_caller_that_goes_just_when_its_turn_comes_passes_it_on() -> None:
    async def scene() -> None:
        turns = Turns(1)

        async def hold() -> None:
            async with turns.turn("a"):
                pass

        async with turns.turn("a"):
            late, last = asyncio.create_task(hold()), asyncio.create_task(hold())
            await asyncio.sleep(0)
        late.cancel()  # the place is its own already, but it has not run
        await asyncio.wait_for(last, 5)

    asyncio.run(scene())
