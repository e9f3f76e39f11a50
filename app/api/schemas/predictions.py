"""Predictions over HTTP."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from pydantic import Field

from app.api.schemas.inputs import AnyInput, InputIn, Strict, SupportIn
from app.api.schemas.tasks import TRACE, AdaptationOut, AdaptOptions
from app.registry.records import PredictionRecord
from app.services.answers import Prediction
from app.services.predict import Answer, Classified
from app.services.tensors import trace_of

TopK = Annotated[int, Field(ge=1, le=10_000, description="How many labels, best first, each answer lists.")]


class Ranked(Strict):
    """How much of the ranking an answer shows."""

    top_k: TopK = 5


class PredictOptions(Ranked):
    """Options of a prediction; in the query beside a body that is not JSON."""

    record: bool = Field(False, description="Store each prediction, to be read back and given feedback on.")


class PredictIn(PredictOptions):
    """The JSON body of POST /v1/tasks/{id}/predict."""

    inputs: list[AnyInput] = Field(min_length=1)


class PredictQuery(Ranked):
    """The query of GET /v1/tasks/{id}/predict: one of text and vector."""

    text: str | None = None
    vector: str | None = Field(None, description="Numbers separated by commas.")


class ManyItemIn(InputIn):
    """One input for one task."""

    task: str = Field(description="The task's id.")
    top_k: TopK = 5


class ManyIn(Strict):
    """The body of POST /v1/predict."""

    items: list[ManyItemIn] = Field(min_length=1)


class ClassifyIn(AdaptOptions, Ranked):
    """The body of POST /v1/classify: a support set and inputs; nothing is stored."""

    support: SupportIn
    inputs: list[AnyInput] = Field(min_length=1)


class ScoreOut(Strict):
    """One label's probability."""

    label: str
    score: float


class PredictionOut(Strict):
    """The answer to one input."""

    index: int
    label: str
    confidence: float
    scores: list[ScoreOut]
    prediction_id: str | None = None


class AnswerOut(Strict):
    """The answer to a request for one task."""

    task: str
    task_version: int
    predictions: list[PredictionOut]
    truncated: list[int] = Field(description="Indices of texts that were longer than the backbone reads.")
    timing: Mapping[str, float]


class ManyItemOut(Strict):
    """One item's answer, or the problem that it met."""

    index: int
    task: str
    task_version: int | None = None
    prediction: PredictionOut | None = None
    problem: Mapping[str, Any] | None = None


class ManyOut(Strict):
    """The answer of POST /v1/predict."""

    items: list[ManyItemOut]
    timing: Mapping[str, float]


class ClassifiedOut(Strict):
    """The answer of POST /v1/classify."""

    backbone: str
    learner: str
    learner_settings: Mapping[str, Any]
    labels: list[str]
    held_out: Mapping[str, Any] | None
    selection: Mapping[str, Any] | None
    adaptation: AdaptationOut | None = Field(description=TRACE)
    warnings: list[Any]
    predictions: list[PredictionOut]
    truncated: list[int]
    timing: Mapping[str, float]


class RecordedOut(Strict):
    """A recorded prediction."""

    id: str
    task: str
    task_version: int
    created_at: datetime
    input_sha256: str
    media_type: str
    stored: bool
    prediction: PredictionOut


class RecordedPage(Strict):
    """One page of recorded predictions, newest first."""

    predictions: list[RecordedOut]
    next_cursor: str | None


def answer_json(answer: Answer, timing: Mapping[str, float]) -> dict[str, object]:
    """`AnswerOut` as plain values: the hot path builds no models."""
    return {
        "task": answer.task.id,
        "task_version": answer.task.active_version,
        "predictions": [one.as_json() for one in answer.predictions],
        "truncated": answer.truncated,
        "timing": timing,
    }


def item_json(index: int, answer: Answer) -> dict[str, object]:
    """One `ManyItemOut` that went well."""
    prediction: Prediction = answer.predictions[0]
    return {
        "index": index,
        "task": answer.task.id,
        "task_version": answer.task.active_version,
        "prediction": prediction.as_json(),
    }


def classified_json(backbone: str, done: Classified, timing: Mapping[str, float]) -> dict[str, object]:
    """`ClassifiedOut` as plain values."""
    adapted = done.adapted
    return {
        "backbone": backbone,
        "learner": adapted.candidate.name,
        "learner_settings": adapted.candidate.settings,
        "labels": done.labels,
        "held_out": adapted.held_out,
        "selection": adapted.selection,
        "adaptation": trace_of(adapted.state),
        "warnings": done.support.warnings(),
        "predictions": [one.as_json() for one in done.predictions],
        "truncated": done.truncated,
        "timing": timing,
    }


def recorded_json(record: PredictionRecord) -> dict[str, object]:
    """`RecordedOut` as plain values."""
    return {
        "id": record.id,
        "task": record.task_id,
        "task_version": record.version,
        "created_at": record.created_at,
        "input_sha256": record.input_sha256,
        "media_type": record.media_type,
        "stored": record.input_blob is not None,
        "prediction": {**record.result, "prediction_id": record.id},
    }
