"""/v1/tasks/{id}/versions, /examples, /labels: online updates, history and rollback."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from app.api.bodies import examples_of, is_json, json_of
from app.api.deps import CallDep, IfMatchDep, MetricsDep, ServicesDep, attended
from app.api.idempotency import once
from app.api.openapi import accepts
from app.api.responses import json_response, server_timing
from app.api.routes.tasks import Cursor, Limit, task_response
from app.api.schemas.inputs import raw_support
from app.api.schemas.tasks import ExamplePage, ExamplesIn, TaskOut, VersionPage, example_out, version_out

MOST_VERSIONS = 2**31 - 1

router = APIRouter(prefix="/v1/tasks/{task_id}", tags=["versions"])


@router.post(
    "/examples",
    response_model=TaskOut,
    openapi_extra=accepts(ExamplesIn, "multipart/form-data", "application/zip", writes=True),
    summary="Add examples",
)
async def add_examples(
    request: Request,
    task_id: str,
    services: ServicesDep,
    metrics: MetricsDep,
    call: CallDep,
    if_match: IfMatchDep,
) -> Response:
    """Makes a new version that equals a fresh fit on the whole set, whatever the order of arrival."""
    services.tasks.check_room(task_id)

    async def work() -> Response:
        record = await services.tasks.get(task_id)
        modality = services.catalogue.kit(record.backbone).codec.modality
        if is_json(request):
            given = await json_of(request, ExamplesIn, services)
            examples = raw_support(given.support, modality)
        else:
            examples = await examples_of(request, modality, services)
        updated = await services.tasks.add_examples(task_id, examples, if_match, call)
        metrics.adapted(updated.backbone, updated.version.learner, "examples-added")
        return task_response(updated, headers=server_timing(call.timing))

    return await once(request, services, call, work)


@router.delete("/examples", response_model=TaskOut, summary="Remove examples")
async def remove_examples(
    request: Request,
    task_id: str,
    services: ServicesDep,
    metrics: MetricsDep,
    call: CallDep,
    if_match: IfMatchDep,
    example_id: Annotated[list[str], Query(min_length=1, description="Ids of GET .../examples; repeat for more.")],
) -> Response:
    """Makes a new version without them."""
    updated = await attended(request, call, lambda: services.tasks.remove_examples(task_id, example_id, if_match, call))
    metrics.adapted(updated.backbone, updated.version.learner, "examples-removed")
    return task_response(updated, headers=server_timing(call.timing))


@router.get("/examples", response_model=ExamplePage, summary="List the examples of a version")
async def list_examples(
    task_id: str,
    services: ServicesDep,
    version: Annotated[
        int | None, Query(ge=1, le=MOST_VERSIONS, description="The active version when left out.")
    ] = None,
    label: str | None = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Response:
    """Each with the id that DELETE takes."""
    page = await services.tasks.examples(task_id, version, cursor, limit, label)
    return json_response(ExamplePage(examples=[example_out(one) for one in page.items], next_cursor=page.next_cursor))


@router.delete("/labels/{label:path}", response_model=TaskOut, summary="Remove a label and its examples")
async def remove_label(
    request: Request,
    task_id: str,
    label: str,
    services: ServicesDep,
    metrics: MetricsDep,
    call: CallDep,
    if_match: IfMatchDep,
) -> Response:
    """Makes a new version without the label."""
    updated = await attended(request, call, lambda: services.tasks.remove_label(task_id, label, if_match, call))
    metrics.adapted(updated.backbone, updated.version.learner, "label-removed")
    return task_response(updated, headers=server_timing(call.timing))


@router.get("/versions", response_model=VersionPage, summary="List versions, newest first")
async def list_versions(task_id: str, services: ServicesDep, cursor: Cursor = None, limit: Limit = 50) -> Response:
    """The history of a task; versions never change."""
    active = (await services.tasks.get(task_id)).active_version
    page = await services.tasks.versions(task_id, cursor, limit)
    shown = [version_out(one, active) for one in page.items]
    return json_response(VersionPage(versions=shown, next_cursor=page.next_cursor))


@router.post(
    "/versions/{number}/activate",
    response_model=TaskOut,
    openapi_extra=accepts(None, writes=True),
    summary="Serve another version",
)
async def activate_version(
    request: Request,
    task_id: str,
    number: Annotated[int, Path(ge=1, le=MOST_VERSIONS)],
    services: ServicesDep,
    call: CallDep,
    if_match: IfMatchDep,
) -> Response:
    """Rollback is activating an older version."""

    async def work() -> Response:
        return task_response(await services.tasks.activate(task_id, number, if_match))

    return await once(request, services, call, work)
