"""The engine in one piece: batches over many tasks, fairness, cancelling, deadlines, the bound."""

import asyncio
import time

import pytest
import torch

from app.core.errors import Busy, DeadlinePassed, UnknownName
from app.engine.work import Work


def test_64_concurrent_predicts_on_64_tasks_take_at_most_3_forwards(bench, play) -> None:
    one = bench()
    one.backbone.gate.clear()

    async def scene() -> None:
        states = [torch.tensor(float(task)) for task in range(64)]
        works = [
            one.work(float(task), head=lambda features, state=state: float(features[0, 0] + state))
            for task, state in enumerate(states)
        ]
        tasks = await one.queue(*works)
        one.open()
        outcomes = await asyncio.gather(*tasks)
        assert [outcome.value for outcome in outcomes] == [task * 3.0 for task in range(64)]

    play(scene())
    assert len(one.backbone.batches) <= 3


def test_a_lone_work_is_computed_at_once_and_equals_the_direct_computation(bench, play) -> None:
    one = bench()
    outcome = play(one.engine.run(one.work(1.5, 2.5)))
    assert outcome.value == [3.0, 5.0]
    assert outcome.queue_s >= 0 <= outcome.device_s
    (report,) = one.recorder.batches
    assert (report.backbone, report.works, report.examples, report.forwards) == ("a", 1, 2, 1)
    assert one.recorder.works == ["a"]


def test_a_head_sees_its_own_rows_alone_in_a_shared_forward(bench, play) -> None:
    one = bench()

    async def scene() -> None:
        first = await one.occupy()
        tasks = await one.queue(one.work(1, 2), one.work(3), one.work(4, 5, 6))
        one.open()
        await first
        values = [(await task).value for task in tasks]
        assert values == [[2, 4], [6], [8, 10, 12]]

    play(scene())
    assert one.backbone.batches == [[-1], [1, 2, 3, 4, 5, 6]]


def test_a_work_without_rows_runs_its_head_and_no_forward(bench, play) -> None:
    one = bench()
    outcome = play(one.engine.run(one.work(head=lambda features: tuple(features.shape))))
    assert outcome.value == (0, 0)
    assert one.backbone.batches == []
    assert one.recorder.batches == []


def test_a_head_runs_without_gradients_but_may_ask_for_them(bench, play) -> None:
    one = bench()

    def head(features: torch.Tensor) -> tuple[bool, bool, bool]:
        with torch.enable_grad():
            weight = torch.ones(3, requires_grad=True)
            (features @ weight).sum().backward()
        return torch.is_grad_enabled(), features.is_inference(), weight.grad is not None

    assert play(one.engine.run(one.work(1, head=head))).value == (False, False, True)


def test_a_large_adaptation_is_sliced_and_a_late_small_work_finishes_before_it(bench, play) -> None:
    one = bench(batch_examples=8)
    finished: list[str] = []

    async def scene() -> None:
        first = await one.occupy()
        firsts = [float(number) for number in range(50)]
        (large,) = await one.queue(one.work(*firsts))
        (small,) = await one.queue(one.work(100))
        large.add_done_callback(lambda _: finished.append("large"))
        small.add_done_callback(lambda _: finished.append("small"))
        one.open()
        await first
        assert (await small).value == [200]
        assert (await large).value == [first * 2 for first in firsts]

    play(scene())
    assert finished == ["small", "large"]
    assert 100 in one.backbone.batches[1], "the small work is in the very next batch"
    assert len(one.backbone.batches) == 1 + 7
    assert max(map(len, one.backbone.batches)) == 8


def test_backbones_take_turns(bench, play) -> None:
    one = bench(batch_examples=2)

    async def scene() -> None:
        first = await one.occupy()
        tasks = await one.queue(*(one.work(number) for number in range(8)))
        tasks += await one.queue(one.work(50, backbone="b"))
        one.open()
        await asyncio.gather(first, *tasks)

    play(scene())
    assert [report.backbone for report in one.recorder.batches] == ["a", "a", "b", "a", "a", "a"]


def test_vectors_of_other_sizes_never_share_a_forward(bench, play) -> None:
    one = bench()

    async def scene() -> None:
        first = await one.occupy()
        works = [Work(backbone="a", inputs=torch.ones(1, size), head=lambda f: f.shape[1]) for size in (3, 4, 3)]
        tasks = await one.queue(*works)
        one.open()
        await first
        assert [(await task).value for task in tasks] == [3, 4, 3]

    play(scene())
    assert [report.examples for report in one.recorder.batches] == [1, 2, 1]


@pytest.mark.parametrize(("lengths", "forwards"), [((7, 2, 12), 1), ((7, 2, 30), 2)])
def test_texts_share_as_many_forwards_as_pay_and_keep_their_answers(bench, play, lengths, forwards) -> None:
    one = bench()

    def text(length: int) -> Work[torch.Tensor]:
        tokens = torch.arange(1, length + 1)[None, :]
        return Work(backbone="text", inputs=tokens, head=lambda features: features)

    async def scene() -> None:
        alone = [(await one.engine.run(text(length))).value for length in lengths]
        first = await one.occupy()
        tasks = await one.queue(*(text(length) for length in lengths))
        one.open()
        await first
        together = [(await task).value for task in tasks]
        torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-6)

    play(scene())
    last = one.recorder.batches[-1]
    assert (last.works, last.forwards) == (3, forwards)


def test_a_cancelled_work_is_never_computed(bench, play) -> None:
    one = bench()

    async def scene() -> None:
        first = await one.occupy()
        gone, stays = await one.queue(one.work(7), one.work(8))
        assert one.engine.health().queue_examples == 2
        gone.cancel()
        await asyncio.sleep(0)
        assert one.engine.health().queue_examples == 1
        one.open()
        await first
        assert (await stays).value == [16]
        assert gone.cancelled()

    play(scene())
    assert one.backbone.rows == [-1, 8]


def test_the_head_of_a_work_cancelled_during_its_forward_does_not_run(bench, play) -> None:
    one = bench()
    ran: list[int] = []

    async def scene() -> None:
        one.backbone.gate.clear()
        (gone,) = await one.queue(one.work(7, head=ran.append))
        assert await asyncio.to_thread(one.backbone.entered.wait, 20)
        gone.cancel()
        await asyncio.sleep(0)
        one.open()
        await one.engine.run(one.work(8))

    play(scene())
    assert ran == []


def test_a_deadline_passed_in_the_queue_fails_without_computing(bench, play) -> None:
    one = bench()

    async def scene() -> None:
        await one.occupy()
        (late,) = await one.queue(one.work(7, deadline_s=time.monotonic() + 0.02))
        # The gate stays closed: it is the supervisor that says so while the device is busy.
        with pytest.raises(DeadlinePassed):
            await late
        assert one.engine.health().queue_examples == 0

    play(scene())
    assert 7 not in one.backbone.rows


def test_the_batcher_drops_what_is_too_late(bench, play) -> None:
    one = bench()
    deadline_s = time.monotonic() + 0.1

    async def scene() -> None:
        await one.occupy()
        late, soon = await one.queue(one.work(7, deadline_s=deadline_s), one.work(8))
        await asyncio.sleep(deadline_s - time.monotonic())
        one.open()
        assert (await soon).value == [16]
        with pytest.raises(DeadlinePassed):
            await late

    play(scene())
    assert one.backbone.rows == [-1, 8]


def test_a_deadline_already_passed_is_refused_at_once(bench, play) -> None:
    one = bench()
    with pytest.raises(DeadlinePassed):
        play(one.engine.run(one.work(7, deadline_s=time.monotonic() - 1)))


def test_a_full_queue_is_busy_and_still_healthy(bench, play) -> None:
    one = bench(queue_examples=4)

    async def scene() -> None:
        await one.engine.run(one.work(0))
        first = await one.occupy()
        tasks = await one.queue(one.work(1, 2, 3))
        with pytest.raises(Busy) as refused:
            await one.engine.run(one.work(4, 5))
        assert refused.value.retry_after_s is not None
        assert refused.value.retry_after_s > 0
        assert one.engine.health().ok
        tasks += await one.queue(one.work(6))
        one.open()
        await asyncio.gather(first, *tasks)

    play(scene())
    assert one.backbone.rows == [0, -1, 1, 2, 3, 6]


def test_a_work_larger_than_the_queue_is_taken_when_nothing_waits(bench, play) -> None:
    one = bench(queue_examples=4)
    assert play(one.engine.run(one.work(*range(10)))).value == [number * 2 for number in range(10)]


def test_an_unknown_backbone_has_a_name_and_a_pointer(bench, play) -> None:
    one = bench()
    with pytest.raises(UnknownName) as unknown:
        play(one.engine.run(one.work(1, backbone="c")))
    assert unknown.value.faults[0].pointer == "/backbone"


def test_a_head_runs_on_one_cpu_thread_and_forwards_get_theirs_back(bench, play) -> None:
    one = bench()
    before = torch.get_num_threads()
    outcome = play(one.engine.run(one.work(1, head=lambda _: torch.get_num_threads())))
    assert outcome.value == 1
    assert torch.get_num_threads() == before
