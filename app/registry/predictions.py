"""Recorded predictions, inside a transaction that the caller holds."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.registry.contents import insert_small
from app.registry.errors import PredictionNotFound
from app.registry.paging import cut_page, decode_cursor
from app.registry.records import NewPrediction, Page, PredictionRecord
from app.registry.session import insert_missing
from app.registry.tables import PredictionTable
from app.registry.versions import live_row


def insert_predictions(
    session: Session, ids: Sequence[str], predictions: Sequence[NewPrediction], now: datetime
) -> None:
    """Write predictions under the given ids. Raises `TaskNotFound`, `TaskDeleted`."""
    for task_id in sorted({prediction.task_id for prediction in predictions}):
        live_row(session, task_id)
    insert_small(session, [(prediction.input_sha256, prediction.content) for prediction in predictions])
    rows = [
        {
            "id": id_,
            "task_id": prediction.task_id,
            "version": prediction.version,
            "created_at": now,
            "input_sha256": prediction.input_sha256,
            "media_type": prediction.media_type,
            "input_blob": None if prediction.content is None else prediction.input_sha256,
            "result": dict(prediction.result),
        }
        for id_, prediction in zip(ids, predictions, strict=True)
    ]
    insert_missing(session, PredictionTable, rows)


def get_prediction(session: Session, prediction_id: str) -> PredictionRecord:
    """Read one prediction. Raises `PredictionNotFound`, `TaskDeleted`."""
    row = session.get(PredictionTable, prediction_id)
    if row is None:
        raise PredictionNotFound(prediction_id)
    live_row(session, row.task_id)
    return _record(row)


def list_predictions(session: Session, task_id: str, cursor: str | None, limit: int) -> Page[PredictionRecord]:
    """Read a page of a task's predictions, newest first. Raises `BadCursor`, `TaskNotFound`, `TaskDeleted`."""
    live_row(session, task_id)
    statement = select(PredictionTable).where(PredictionTable.task_id == task_id)
    if cursor is not None:
        statement = statement.where(PredictionTable.id < decode_cursor("predictions", cursor))
    rows = session.scalars(statement.order_by(PredictionTable.id.desc()).limit(limit + 1))
    return cut_page("predictions", [_record(row) for row in rows], limit, lambda record: record.id)


def _record(row: PredictionTable) -> PredictionRecord:
    return PredictionRecord(
        id=row.id,
        task_id=row.task_id,
        version=row.version,
        created_at=row.created_at,
        input_sha256=row.input_sha256,
        media_type=row.media_type,
        input_blob=row.input_blob,
        result=row.result,
    )
