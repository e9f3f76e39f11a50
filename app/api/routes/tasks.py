"""/v1/tasks: create, list, show, rename, delete."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from app.api.bodies import examples_of, is_json, json_of, query_of, refuse_query
from app.api.deps import CallDep, IfMatchDep, MetricsDep, ServicesDep, attended
from app.api.errors import from_single
from app.api.idempotency import once
from app.api.openapi import accepts
from app.api.responses import json_response, not_modified, server_timing
from app.api.schemas.inputs import raw_support
from app.api.schemas.tasks import TaskIn, TaskOptions, TaskOut, TaskPage, TaskPatch, TaskQuery, task_out, task_summary
from app.codecs import RawExample
from app.registry.records import TaskRecord
from app.services import Services

router = APIRouter(prefix="/v1/tasks", tags=["tasks"])

Cursor = Annotated[str | None, Query(description="next_cursor of the page before.")]
Limit = Annotated[int, Query(ge=1, le=200, description="Items on a page.")]


def task_response(record: TaskRecord, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A task with its ETag."""
    return json_response(task_out(record), status, {"ETag": record.etag, **(headers or {})})


@router.post(
    "",
    status_code=201,
    response_model=TaskOut,
    openapi_extra=accepts(TaskIn, "multipart/form-data", "application/zip", query=TaskQuery, writes=True),
    summary="Adapt a classifier to labelled examples and store it",
)
async def create_task(request: Request, services: ServicesDep, metrics: MetricsDep, call: CallDep) -> Response:
    """JSON holds everything; beside a multipart body (one part per example, the field's name is the
    label) or a zip (one folder per label), the options stand in the query."""

    async def work() -> Response:
        options, examples = await _read(request, services)
        recipe = options.recipe(store_inputs=options.store_inputs)
        record = await services.tasks.create(options.name, recipe, examples, call)
        metrics.adapted(record.backbone, record.version.learner, record.version.change)
        headers = {"Location": f"/v1/tasks/{record.id}", **server_timing(call.timing)}
        return task_response(record, 201, headers)

    return await once(request, services, call, work)


async def _read(request: Request, services: Services) -> tuple[TaskOptions, list[RawExample]]:
    if is_json(request):
        refuse_query(request)
        given = await json_of(request, TaskIn, services)
        modality = services.catalogue.kit(given.backbone).codec.modality
        return given, raw_support(given.support, modality)
    query = query_of(request, TaskQuery)
    if query.backbone is None:
        raise from_single("/query/backbone", "This parameter is required beside a body that is not JSON.")
    options = TaskOptions(
        name=query.name,
        backbone=query.backbone,
        learner=query.learner,
        learner_settings=query.learner_settings or {},
        store_inputs=query.store_inputs,
    )
    kit = services.catalogue.kit(options.backbone, "/query/backbone")
    return options, await examples_of(request, kit.codec.modality, services)


@router.get("", response_model=TaskPage, summary="List tasks, newest first")
async def list_tasks(
    services: ServicesDep,
    cursor: Cursor = None,
    limit: Limit = 50,
    label: Annotated[str | None, Query(description="Only tasks whose active version has this label.")] = None,
    name: Annotated[str | None, Query(description="Only the task of this name.")] = None,
) -> Response:
    """Keyset pages: a page stays right while tasks are made and deleted."""
    page = await services.tasks.page(cursor, limit, label, name)
    return json_response(TaskPage(tasks=[task_summary(one) for one in page.items], next_cursor=page.next_cursor))


@router.get("/{task_id}", response_model=TaskOut, summary="Show a task")
async def show_task(request: Request, task_id: str, services: ServicesDep) -> Response:
    """The task with its active version; 410 once it is deleted."""
    record = await services.tasks.get(task_id)
    return not_modified(request, record.etag) or task_response(record)


@router.patch("/{task_id}", response_model=TaskOut, openapi_extra=accepts(TaskPatch), summary="Rename a task")
async def rename_task(
    request: Request, task_id: str, services: ServicesDep, call: CallDep, if_match: IfMatchDep
) -> Response:
    """With `If-Match`, only if the task is still at that ETag (else 412)."""

    async def work() -> Response:
        given = await json_of(request, TaskPatch, services)
        return task_response(await services.tasks.rename(task_id, given.name, if_match))

    return await attended(request, call, work)


@router.delete("/{task_id}", status_code=204, summary="Delete a task")
async def delete_task(
    request: Request, task_id: str, services: ServicesDep, call: CallDep, if_match: IfMatchDep
) -> Response:
    """From then on the task is gone: 410."""
    await attended(request, call, lambda: services.tasks.delete(task_id, if_match))
    return Response(status_code=204)
