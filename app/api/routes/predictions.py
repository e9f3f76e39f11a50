"""Predictions: one task, many tasks, none stored, and the recorded ones."""

import asyncio
import hashlib
from collections.abc import Callable
from functools import partial

from fastapi import APIRouter, Request, Response

from app.api.bodies import inputs_of, is_json, json_of, query_of, refuse_query
from app.api.deps import CallDep, MetricsDep, ServicesDep, attended
from app.api.errors import from_single, problem_fields, request_id_of
from app.api.idempotency import once
from app.api.openapi import accepts
from app.api.responses import json_response, not_modified, scores_json, server_timing
from app.api.routes.tasks import Cursor, Limit
from app.api.schemas.inputs import raw_input, raw_support
from app.api.schemas.predictions import (
    AnswerOut,
    ClassifiedOut,
    ClassifyIn,
    ManyIn,
    ManyItemIn,
    ManyOut,
    PredictIn,
    PredictOptions,
    PredictQuery,
    RecordedOut,
    RecordedPage,
    answer_json,
    classified_json,
    item_json,
    recorded_json,
)
from app.codecs import RawInput, vector_of_query
from app.core.errors import ImprintError, TooLarge
from app.services.call import Call
from app.services.predict import check_scores

router = APIRouter(prefix="/v1", tags=["predictions"])


@router.post(
    "/tasks/{task_id}/predict",
    response_model=AnswerOut,
    openapi_extra=accepts(
        PredictIn,
        "image/jpeg",
        "multipart/form-data",
        "application/vnd.safetensors",
        "text/plain",
        query=PredictOptions,
        writes=True,
    ),
    summary="Predict with a task",
)
async def predict(
    request: Request, task_id: str, services: ServicesDep, metrics: MetricsDep, call: CallDep
) -> Response:
    """JSON `{"inputs": [..]}`, one bare file or text, multipart parts, or safetensors with a matrix `inputs`.
    Beside a body that is not JSON the options stand in the query."""
    services.tasks.check_room(task_id)

    async def work() -> Response:
        bound = await services.predict.bound(task_id)
        modality = bound.kit.codec.modality
        options: PredictOptions
        if is_json(request):
            refuse_query(request)
            given = await json_of(request, PredictIn, services)
            options = given
            raws = [raw_input(one, modality, f"/inputs/{index}") for index, one in enumerate(given.inputs)]
        else:
            options = query_of(request, PredictOptions)
            raws = await inputs_of(request, modality, services)
        answer = await services.predict.predict(bound, raws, call, top_k=options.top_k, record=options.record)
        metrics.predicted(bound.kit.name, bound.task.version.learner, len(raws))
        body, headers = partial(answer_json, answer, call.timing.milliseconds()), server_timing(call.timing)
        if options.record:  # what is stored is answered: nothing may come between
            return json_response(body(), headers=headers)
        return await scores_json(services, body, headers, answer.listed)

    return await once(request, services, call, work)


@router.get(
    "/tasks/{task_id}/predict",
    response_model=AnswerOut,
    openapi_extra=accepts(None, query=PredictQuery),
    summary="Predict one small input, cacheable",
)
async def predict_small(
    request: Request, task_id: str, services: ServicesDep, metrics: MetricsDep, call: CallDep
) -> Response:
    """`?text=...` or `?vector=0.1,0.2`. The ETag comes from version and input: 304 costs no computation."""
    query = query_of(request, PredictQuery)
    bound = await services.predict.bound(task_id)
    task = bound.task
    digest = hashlib.sha256(f"{task_id}\n{task.active_version}\n{request.url.query}".encode()).hexdigest()
    headers = {"ETag": f'W/"{digest[:32]}"', "Cache-Control": "private, no-cache"}
    unchanged = not_modified(request, headers["ETag"], **{"Cache-Control": headers["Cache-Control"]})
    if unchanged is not None:
        return unchanged
    raw = _small_input(query)
    answer = await attended(request, call, lambda: services.predict.predict(bound, [raw], call, top_k=query.top_k))
    metrics.predicted(task.backbone, task.version.learner, 1)
    body = answer_json(answer, call.timing.milliseconds())
    return json_response(body, headers={**headers, **server_timing(call.timing)})


def _small_input(query: PredictQuery) -> RawInput:
    if (query.text is None) == (query.vector is None):
        raise from_single("/query", "Give exactly one of text and vector.")
    if query.text is not None:
        return RawInput("text", query.text, "/query/text")
    return vector_of_query(query.vector or "", "/query/vector")


@router.post("/predict", response_model=ManyOut, openapi_extra=accepts(ManyIn), summary="Predict with many tasks")
async def predict_many(request: Request, services: ServicesDep, metrics: MetricsDep, call: CallDep) -> Response:
    """Each item has its answer or its own problem; the items share the batches of their backbones."""

    listed = 0

    async def one(index: int, item: ManyItemIn) -> Callable[[], dict[str, object]]:
        own = Call(call.deadline_s, admitted=True)
        try:
            raw = item.raw(f"/items/{index}")
            bound = await services.predict.bound(item.task)
            answer = await services.predict.predict(bound, [raw], own, top_k=item.top_k)
            nonlocal listed
            listed += answer.listed
            check_scores(listed, services.limits, f"/items/{index}/top_k")
        except ImprintError as error:
            fields = problem_fields(error, request.url.path, request_id_of(request))
            return lambda: {"index": index, "task": item.task, "problem": fields}
        call.timing.cover(own.timing)
        metrics.predicted(answer.task.backbone, answer.task.version.learner, 1)
        return partial(item_json, index, answer)

    async def work() -> Response:
        given = await json_of(request, ManyIn, services)
        if len(given.items) > services.limits.inputs:
            detail = f"{len(given.items)} items in one request; the limit is {services.limits.inputs}."
            raise TooLarge(detail, pointer="/items")
        async with services.predict.many([item.task for item in given.items]):
            items = await asyncio.gather(*(one(index, item) for index, item in enumerate(given.items)))
        timing = call.timing.milliseconds()
        # A problem is as much to write as an answer.
        written = max(listed, len(items))
        body = lambda: {"items": [make() for make in items], "timing": timing}  # noqa: E731
        return await scores_json(services, body, server_timing(call.timing), written)

    return await attended(request, call, work)


@router.post(
    "/classify", response_model=ClassifiedOut, openapi_extra=accepts(ClassifyIn), summary="Adapt, predict, forget"
)
async def classify(request: Request, services: ServicesDep, metrics: MetricsDep, call: CallDep) -> Response:
    """Support set and inputs in one request, one pass over the backbone; nothing is stored."""

    async def work() -> Response:
        given = await json_of(request, ClassifyIn, services)
        kit = services.catalogue.kit(given.backbone)
        modality = kit.codec.modality
        support = raw_support(given.support, modality)
        raws = [raw_input(one, modality, f"/inputs/{index}") for index, one in enumerate(given.inputs)]
        done = await services.predict.classify(given.recipe(), support, raws, call, top_k=given.top_k)
        metrics.predicted(kit.name, done.adapted.candidate.name, len(raws))
        body = partial(classified_json, kit.name, done, call.timing.milliseconds())
        return await scores_json(services, body, server_timing(call.timing), done.listed)

    return await attended(request, call, work)


@router.get(
    "/tasks/{task_id}/predictions", response_model=RecordedPage, summary="List recorded predictions, newest first"
)
async def list_predictions(task_id: str, services: ServicesDep, cursor: Cursor = None, limit: Limit = 50) -> Response:
    """Those that were made with `record`."""
    page = await services.predict.recorded_page(task_id, cursor, limit)
    shown = [recorded_json(one) for one in page.items]
    return json_response({"predictions": shown, "next_cursor": page.next_cursor})


@router.get("/predictions/{prediction_id}", response_model=RecordedOut, summary="Show a recorded prediction")
async def show_prediction(prediction_id: str, services: ServicesDep) -> Response:
    """As it was answered."""
    return json_response(recorded_json(await services.predict.recorded(prediction_id)))
