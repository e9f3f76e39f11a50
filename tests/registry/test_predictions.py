"""Recorded predictions."""

import hashlib

import pytest

from app.registry.errors import PredictionNotFound, TaskDeleted, TaskNotFound
from app.registry.records import NewPrediction


@pytest.fixture
def task(registry, make):
    return registry.create_task(make.task(), make.version(*make.pair()))


def _prediction(task_id: str, content: bytes, *, store: bool = True) -> NewPrediction:
    return NewPrediction(
        task_id=task_id,
        version=1,
        input_sha256=hashlib.sha256(content).hexdigest(),
        media_type="text/plain",
        content=content if store else None,
        result={"label": "cat", "confidence": 0.75, "scores": [{"label": "cat", "score": 0.75}]},
    )


def test_a_recorded_prediction_reads_back(registry, task, clock):
    small, large, unstored = registry.record_predictions(
        [
            _prediction(task.id, b"purr"),
            _prediction(task.id, b"p" * 100_000),
            _prediction(task.id, b"hush", store=False),
        ]
    )
    read = registry.prediction(small)
    assert (read.id, read.task_id, read.version, read.created_at) == (small, task.id, 1, clock.now)
    assert read.result == _prediction(task.id, b"purr").result
    assert registry.read_blob(read.input_blob) == b"purr"
    assert registry.read_blob(registry.prediction(large).input_blob) == b"p" * 100_000
    assert registry.prediction(unstored).input_blob is None


def test_predictions_list_newest_first_and_stay_stable(registry, task):
    ids = registry.record_predictions([_prediction(task.id, f"{n}".encode()) for n in range(7)])
    page = registry.predictions(task.id, limit=3)
    seen = [prediction.id for prediction in page.items]
    while page.next_cursor is not None:
        registry.record_predictions([_prediction(task.id, b"later")])
        page = registry.predictions(task.id, page.next_cursor, limit=3)
        seen += [prediction.id for prediction in page.items]
    assert seen == ids[::-1]


def test_predictions_of_one_task_do_not_show_in_another(registry, make, task):
    other = registry.create_task(make.task(), make.version(*make.pair()))
    registry.record_predictions([_prediction(other.id, b"purr")])
    assert registry.predictions(task.id).items == ()


def test_no_predictions_are_no_write(registry):
    assert registry.record_predictions([]) == []


def test_predictions_of_a_deleted_task_are_gone(registry, task):
    (id_,) = registry.record_predictions([_prediction(task.id, b"purr")])
    registry.delete_task(task.id)
    with pytest.raises(TaskDeleted):
        registry.prediction(id_)
    with pytest.raises(TaskDeleted):
        registry.record_predictions([_prediction(task.id, b"purr")])


def test_an_unknown_prediction_or_task_is_not_found(registry):
    with pytest.raises(PredictionNotFound, match="prd_x"):
        registry.prediction("prd_x")
    with pytest.raises(TaskNotFound):
        registry.record_predictions([_prediction("tsk_x", b"purr")])
