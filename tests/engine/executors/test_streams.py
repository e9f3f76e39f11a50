"""A forward parted among streams: the same answers, and an error in one waits for the others."""

import asyncio
import gc
import subprocess
import sys
import threading

import pytest
import torch

from app.engine.errors import EngineDown
from app.engine.executors._lane import Lane
from app.engine.executors._streams import ROWS_A_STREAM
from app.engine.executors.check import TOLERANCE, deviation
from app.engine.executors.choose import COMPILED
from app.engine.scheduler import Engine
from app.engine.work import EngineSettings, Work

compiled = pytest.mark.parametrize("executor", list(COMPILED))


@pytest.fixture
def threads(monkeypatch):
    """As many threads for what is made in the test, however many the machine has."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    return 3


@compiled
@pytest.mark.parametrize("rows", [1, 3 * ROWS_A_STREAM - 1, 3 * ROWS_A_STREAM, 8, 16])
def test_rows_come_back_in_their_order(make, draw, threads, executor, rows):
    one = make(executor, "glyph")
    assert one.streams == threads
    parts = draw("glyph", rows)
    assert deviation(one.embed(parts), make("torch", "glyph").embed(parts)) <= TOLERANCE


@compiled
def test_texts_of_mixed_lengths_come_back_in_their_order(make, draw, threads, executor):
    parts = draw("text", 5, 40, 1, 12, 3, *range(2, 60, 3))
    found = make(executor, "text").embed(parts)
    assert deviation(found, make("torch", "text").embed(parts)) <= TOLERANCE


@compiled
@pytest.mark.parametrize(("rows", "parted"), [(3 * ROWS_A_STREAM - 1, False), (3 * ROWS_A_STREAM, True)])
def test_few_rows_are_computed_by_all_threads_together(make, draw, threads, executor, rows, parted, monkeypatch):
    one = make(executor, "glyph")
    begun = []
    begin = type(one)._begin

    def noted(self, stream, *rest):
        begun.append(stream)
        return begin(self, stream, *rest)

    monkeypatch.setattr(type(one), "_begin", noted)
    one.embed(draw("glyph", rows))
    assert begun == ([0, 1, 2] if parted else [])
    assert one.forwards == 1


@compiled
@pytest.mark.parametrize("at_once", [True, False])
def test_an_error_in_one_stream_is_raised_when_all_have_ended(make, draw, threads, executor, at_once, monkeypatch):
    one = make(executor, "glyph")
    ended = []
    begin = type(one)._begin

    def failing(self, stream, *rest):
        if stream == 1 and at_once:
            raise RuntimeError("the second stream")
        wait = begin(self, stream, *rest)

        def waited():
            features = wait()
            ended.append(stream)
            if stream == 1:
                raise RuntimeError("the second stream")
            return features

        return waited

    monkeypatch.setattr(type(one), "_begin", failing)
    with pytest.raises(RuntimeError, match="the second stream"):
        one.embed(draw("glyph", 9))
    assert ended == ([0, 2] if at_once else [0, 1, 2])
    monkeypatch.undo()
    parts = draw("glyph", 9)
    assert deviation(one.embed(parts), make("torch", "glyph").embed(parts)) <= TOLERANCE


@compiled
def test_who_takes_over_from_a_forward_that_hangs_does_not_wait_for_it(
    make, subjects, draw, threads, executor, monkeypatch
):
    one = make(executor, "glyph")
    hung, release = threading.Event(), threading.Event()
    begin = type(one)._begin

    def hanging(self, stream, *rest):
        wait = begin(self, stream, *rest)
        if stream != 1 or hung.is_set():
            return wait
        hung.set()
        if executor == "onnxruntime":  # what runs on the lane's own thread hangs there
            return self._lanes[stream].begin(release.wait)
        return lambda: release.wait() and wait()

    monkeypatch.setattr(type(one), "_begin", hanging)
    engine = Engine(
        {"glyph": subjects["glyph"].backbone},
        device=torch.device("cpu"),
        settings=EngineSettings(hang_timeout_s=2.0),
        executors={"glyph": one},
    )
    engine.start()
    inputs = torch.cat(draw("glyph", 9))
    work = Work("glyph", inputs, lambda features: features)
    held = [one._request, *one._requests] if executor == "openvino" else one._lanes
    try:
        with pytest.raises(EngineDown):
            asyncio.run(engine.run(work))
        found = asyncio.run(engine.run(work)).value
    finally:
        release.set()
        engine.stop(20.0)
    assert hung.is_set()
    assert deviation(found, make("torch", "glyph").embed([inputs])) <= TOLERANCE
    now = [one._request, *one._requests] if executor == "openvino" else one._lanes
    assert not {id(each) for each in held} & {id(each) for each in now}, "none that is still in use"


def test_a_call_that_hangs_keeps_no_process_from_its_end():
    script = "from threading import Event; from app.engine.executors._lane import Lane; Lane('x').begin(Event().wait)"
    assert subprocess.run([sys.executable, "-c", script], timeout=60, check=False).returncode == 0


def test_the_thread_of_a_lane_ends_with_it():
    lane = Lane("imprint-one-lane")
    assert lane.begin(lambda: 7)() == 7
    with pytest.raises(ZeroDivisionError):
        lane.begin(lambda: 1 / 0)()
    (thread,) = [each for each in threading.enumerate() if each.name == "imprint-one-lane"]
    del lane
    gc.collect()
    thread.join(20)
    assert not thread.is_alive()
