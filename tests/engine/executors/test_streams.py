"""A forward parted among streams: the same answers, and an error in one waits for the others."""

import pytest
import torch

from app.engine.executors._streams import ROWS_A_STREAM
from app.engine.executors.check import TOLERANCE, deviation
from app.engine.executors.choose import COMPILED

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
