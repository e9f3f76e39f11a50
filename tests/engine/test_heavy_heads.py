"""Heads that take examples through a backbone themselves: they pay, give way, show life, and stop when told."""

import asyncio
import time
from dataclasses import replace
from threading import Event

import pytest
import torch

from app.core.errors import Busy, DeadlinePassed
from app.core.heartbeat import beat_now


def heavy(one, head, examples=1, **more):
    return replace(one.work(head=head, **more), head_examples=examples)


def test_a_heavy_head_runs_on_all_cpu_threads_and_after_the_light_ones(bench, play) -> None:
    one = bench()
    order = []

    def noted(name):
        return lambda _: order.append((name, torch.get_num_threads()))

    before = torch.get_num_threads()
    torch.set_num_threads(2)

    async def scene() -> None:
        first = await one.occupy()
        tasks = await one.queue(
            heavy(one, noted("heavy"), 3), heavy(one, noted("second")), one.work(head=noted("light"))
        )
        one.open()
        await asyncio.gather(first, *tasks)

    try:
        play(scene())
    finally:
        torch.set_num_threads(before)
    assert sorted(order) == [("heavy", 2), ("light", 1), ("second", 2)]
    assert order[0] == ("light", 1)


def test_what_a_head_takes_counts_in_the_queue(bench, play) -> None:
    one = bench(queue_examples=10)

    async def scene() -> None:
        first = await one.occupy()
        tasks = await one.queue(heavy(one, lambda _: "paid", 8))
        assert one.engine.health().queue_examples == 8
        with pytest.raises(Busy):
            await one.engine.run(heavy(one, lambda _: "refused", 3))
        tasks += await one.queue(one.work(1, 2))
        one.open()
        await first
        assert [(await task).value for task in tasks] == ["paid", [2, 4]]
        assert one.engine.health().queue_examples == 0

    play(scene())


def test_a_head_dearer_than_a_batch_is_computed_with_its_rows(bench, play) -> None:
    one = bench(batch_examples=4)
    work = replace(one.work(1, 2, 3, 4, 5, 6), head_examples=9)
    assert play(one.engine.run(work)).value == [2, 4, 6, 8, 10, 12]
    assert one.backbone.rows == [1, 2, 3, 4, 5, 6]


def test_a_long_head_that_beats_is_no_hang(bench, play) -> None:
    one = bench(hang_timeout_s=1.0)

    def long(_: torch.Tensor) -> str:
        for _ in range(30):
            time.sleep(0.06)
            beat_now()
        return "done"

    assert play(one.engine.run(heavy(one, long))).value == "done"
    assert one.engine.health().restarts == 0


def test_a_head_stops_at_its_next_beat_when_its_caller_has_gone(bench, play) -> None:
    one = bench()
    entered, stopped = Event(), Event()

    def endless(_: torch.Tensor) -> None:
        entered.set()
        try:
            while True:
                time.sleep(0.001)
                beat_now()
        finally:
            stopped.set()

    async def scene() -> None:
        (task,) = await one.queue(heavy(one, endless))
        assert await asyncio.to_thread(entered.wait, 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(stopped.wait, 20)
        assert (await one.engine.run(one.work(1))).value == [2]

    play(scene())
    assert one.engine.health().restarts == 0


def test_a_head_stops_at_its_next_beat_when_the_deadline_has_passed(bench, play) -> None:
    one = bench()

    def endless(_: torch.Tensor) -> None:
        while True:
            time.sleep(0.001)
            beat_now()

    with pytest.raises(DeadlinePassed):
        play(one.engine.run(heavy(one, endless, deadline_s=time.monotonic() + 0.2)))
    assert play(one.engine.run(one.work(1))).value == [2]
    assert one.engine.health().restarts == 0


def test_stopping_the_engine_ends_a_head_at_its_next_beat(bench, play) -> None:
    from app.engine.errors import Draining

    one = bench()
    entered = Event()

    def endless(_: torch.Tensor) -> None:
        entered.set()
        while True:
            time.sleep(0.001)
            beat_now()

    async def scene() -> None:
        (task,) = await one.queue(heavy(one, endless))
        assert await asyncio.to_thread(entered.wait, 20)
        thread = one.engine._thread
        await asyncio.to_thread(one.engine.stop, 0.1)
        with pytest.raises(Draining):
            await task
        await asyncio.to_thread(one.until, lambda: thread.ended)

    play(scene())


def test_a_beat_outside_of_a_head_does_nothing() -> None:
    beat_now()
