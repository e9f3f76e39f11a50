"""What fails, fails alone; what dies or hangs is replaced; nobody waits for ever."""

import asyncio
import time
from threading import Event

import pytest
import torch

from app.engine.budget import Budgets
from app.engine.device import DeviceThread
from app.engine.errors import DeviceMemoryFull, Draining, EngineDown, EngineFailure
from app.engine.mailbox import Mailbox
from app.engine.observer import NullObserver
from app.engine.pending import Pending
from app.engine.queue import WorkQueue
from app.engine.scheduler import HANGS_IN_A_ROW
from app.engine.work import Work


def test_only_the_poison_work_of_a_batch_fails(bench, play) -> None:
    one = bench()
    one.backbone.poison[5.0] = ZeroDivisionError("no")

    async def scene() -> None:
        first = await one.occupy()
        tasks = await one.queue(*(one.work(number) for number in range(16)))
        one.open()
        await first
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for number, outcome in enumerate(outcomes):
            if number == 5:
                assert isinstance(outcome, EngineFailure)
                assert isinstance(outcome.__cause__, ZeroDivisionError)
                assert "no" not in outcome.detail.split(), "the text of an unknown error stays in the log"
            else:
                assert outcome.value == [number * 2]

    play(scene())
    assert len(one.backbone.batches) <= 1 + 1 + 2 * 4, "by halving, not one by one"


def test_an_error_with_a_name_keeps_it(bench, play, bad_input) -> None:
    one = bench()
    one.backbone.poison[5.0] = bad_input("not this one")
    with pytest.raises(bad_input):
        play(one.engine.run(one.work(5)))


def test_a_poison_slice_of_a_large_work_fails_it_whole_and_leaves_the_queue(bench, play) -> None:
    one = bench(batch_examples=4)
    one.backbone.poison[2.0] = ZeroDivisionError("no")
    with pytest.raises(EngineFailure):
        play(one.engine.run(one.work(*range(40))))
    assert one.engine.health().queue_examples == 0
    assert len(one.backbone.rows) == 4


def test_a_head_that_raises_fails_its_own_work_alone(bench, play, bad_input) -> None:
    one = bench()

    def unnamed(features: torch.Tensor) -> None:
        raise ValueError("a bug")

    def named(features: torch.Tensor) -> None:
        raise bad_input("not that")

    async def scene() -> None:
        first = await one.occupy()
        tasks = await one.queue(one.work(1, head=unnamed), one.work(2, head=named), one.work(3))
        one.open()
        await first
        with pytest.raises(EngineFailure):
            await tasks[0]
        with pytest.raises(bad_input):
            await tasks[1]
        assert (await tasks[2]).value == [6]

    play(scene())
    assert len(one.backbone.batches) == 2, "the forward was not run again"


def test_out_of_memory_halves_the_micro_batch(bench, play) -> None:
    one = bench()
    one.backbone.room = 10
    assert play(one.engine.run(one.work(*range(32)))).value == [number * 2 for number in range(32)]
    assert [len(batch) for batch in one.backbone.batches] == [32, 16, 8, 8, 16, 8, 8]
    assert one.recorder.batches[0].forwards == 7
    assert play(one.engine.run(one.work(*range(32)))).value == [number * 2 for number in range(32)]
    assert len(one.backbone.batches[7]) < 16, "the next batch begins with what fitted"


def test_an_example_that_never_fits_fails_alone(bench, play) -> None:
    one = bench()
    one.backbone.room = 0
    with pytest.raises(DeviceMemoryFull):
        play(one.engine.run(one.work(1)))
    one.backbone.room = 10
    assert play(one.engine.run(one.work(1))).value == [2]


def test_out_of_memory_in_a_head_has_its_name(bench, play) -> None:
    one = bench()

    def greedy(features: torch.Tensor) -> torch.Tensor:
        return torch.empty(10**15)

    with pytest.raises(DeviceMemoryFull):
        play(one.engine.run(one.work(1, head=greedy)))


def test_a_thread_that_dies_fails_all_that_wait_and_is_replaced(bench, play) -> None:
    one = bench(batch_examples=2)
    one.recorder.at_restart = one.engine.health

    def die(features: torch.Tensor) -> None:
        raise SystemExit

    async def scene() -> None:
        first = await one.occupy()
        tasks = await one.queue(one.work(1, head=die), one.work(2), one.work(3), one.work(4, 5, 6))
        one.open()
        await first
        for task in tasks:
            with pytest.raises(EngineDown) as down:
                await task
            assert down.value.retry_after_s is not None
        assert (await one.engine.run(one.work(7))).value == [14]

    play(scene())
    (meanwhile,) = one.recorder.seen_at_restart
    assert not meanwhile.ok
    assert "died" in meanwhile.reason
    after = one.engine.health()
    assert after.ok
    assert after.restarts == 1
    assert after.queue_examples == 0


def test_a_thread_that_hangs_is_replaced_and_its_late_results_are_dropped(bench, play) -> None:
    one = bench(hang_timeout_s=1.0)
    one.recorder.at_restart = one.engine.health
    stuck, release, left = Event(), Event(), Event()

    def hang(features: torch.Tensor) -> str:
        stuck.set()
        release.wait(20)
        left.set()
        return "late"

    async def scene() -> None:
        hung, mate = await one.queue(one.work(1, head=hang), one.work(2))
        for task in (hung, mate):
            with pytest.raises(EngineDown):
                await task
        assert stuck.is_set()
        assert (await one.engine.run(one.work(7))).value == [14]
        release.set()
        assert await asyncio.to_thread(left.wait, 20)
        assert (await one.engine.run(one.work(8))).value == [16]

    play(scene())
    (meanwhile,) = one.recorder.seen_at_restart
    assert not meanwhile.ok
    assert one.engine.health().ok
    assert one.engine.health().restarts == 1


def test_a_forward_that_hangs_is_not_gone_on_with_when_it_comes_back(bench, play) -> None:
    one = bench(hang_timeout_s=1.0, batch_examples=256)

    async def scene() -> None:
        one.backbone.gate.clear()
        hung = one.engine._thread
        with pytest.raises(EngineDown):
            await one.engine.run(one.work(*range(256)))
        one.open()
        await asyncio.to_thread(one.until, lambda: hung.ended)
        assert len(one.backbone.batches) == 1, "of four forwards"
        assert (await one.engine.run(one.work(300))).value == [600]

    play(scene())


def test_a_device_on_which_one_thread_after_the_other_hangs_is_lost(bench, play) -> None:
    lost: list[bool] = []
    one = bench(on_lost=lambda: lost.append(True), hang_timeout_s=1.0)

    async def scene() -> None:
        one.backbone.gate.clear()
        for _ in range(HANGS_IN_A_ROW):
            assert not lost
            with pytest.raises(EngineDown):
                await one.engine.run(one.work(1))

    play(scene())
    one.until(lambda: bool(lost))
    assert len(one.recorder.restarts) == HANGS_IN_A_ROW - 1
    assert not one.engine.health().ok
    with pytest.raises(Draining):
        play(one.engine.run(one.work(2)))


def test_hangs_between_which_something_was_computed_are_no_lost_device(bench, play) -> None:
    lost: list[bool] = []
    one = bench(on_lost=lambda: lost.append(True), hang_timeout_s=1.0)

    async def scene() -> None:
        for number in range(HANGS_IN_A_ROW + 1):
            assert (await one.engine.run(one.work(number))).value == [number * 2]
            one.backbone.gate.clear()
            with pytest.raises(EngineDown):
                await one.engine.run(one.work(100))
            one.open()

    play(scene())
    assert not lost
    assert play(one.engine.run(one.work(7))).value == [14]


def test_an_idle_thread_does_not_count_as_hung(play) -> None:
    queue = WorkQueue(4, Budgets(4))
    thread = DeviceThread(queue, {}, NullObserver(), lambda: None)
    queue.hand_over(thread)
    much_later_s = time.monotonic() + 1e6
    assert thread.silent_s(much_later_s) == 0

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        work = Work(backbone="a", inputs=torch.ones(1, 1), head=len)
        queue.put(Pending(work, ("a", (1,), torch.float32), Mailbox(loop), loop.create_future()))
        queue.take(thread)

    thread.last_beat_s = time.monotonic() - 1e6
    play(scene())
    assert thread.silent_s(time.monotonic()) < 1e5, "it counts from when the work was taken"
    assert thread.silent_s(much_later_s) > 1e5


def test_a_closed_loop_takes_nothing_down(bench, play) -> None:
    one = bench()
    one.backbone.gate.clear()

    async def leave() -> None:
        await one.queue(one.work(1))
        assert await asyncio.to_thread(one.backbone.entered.wait, 20)

    play(leave())
    one.open()
    assert play(one.engine.run(one.work(2))).value == [4]


def test_a_letter_to_a_closed_loop_is_thrown_away() -> None:
    loop = asyncio.new_event_loop()
    future = loop.create_future()
    loop.close()
    Mailbox(loop).post(future, 1, None)
    assert not future.done()


def test_inputs_of_a_wrong_shape_are_refused_before_they_are_queued(bench, play) -> None:
    one = bench()
    with pytest.raises(ValueError, match="inputs of shape"):
        play(one.engine.run(Work(backbone="a", inputs=torch.ones(1, 2, 3), head=len)))


def test_inputs_of_a_wrong_size_are_refused_before_they_are_queued(bench, play) -> None:
    one = bench()
    one.backbone.input_shape = (3,)
    with pytest.raises(ValueError, match=r"inputs of shape \(1, 2\) for a backbone of \(3,\)"):
        play(one.engine.run(Work(backbone="a", inputs=torch.ones(1, 2), head=len)))
    assert play(one.engine.run(Work(backbone="a", inputs=torch.ones(1, 3), head=len))).value == 1
    assert len(one.backbone.batches) == 1
