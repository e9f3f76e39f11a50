"""Export and import of tasks."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from app.api.bodies import SAFETENSORS, UnsupportedBody, body_of, media_type_of
from app.api.deps import CallDep, ServicesDep, attended
from app.api.idempotency import once
from app.api.openapi import accepts
from app.api.routes.tasks import task_response
from app.api.schemas.tasks import Name, TaskOut

router = APIRouter(prefix="/v1/tasks", tags=["transfer"])


@router.get("/{task_id}/export", response_class=Response, summary="Export a task as one file")
async def export_task(request: Request, task_id: str, services: ServicesDep, call: CallDep) -> Response:
    """One safetensors file with JSON metadata: state, embeddings and, where they were kept, inputs."""
    data = await attended(request, call, lambda: services.transfer.export(task_id))
    disposition = f'attachment; filename="{task_id}.safetensors"'
    return Response(data, media_type=SAFETENSORS[0], headers={"Content-Disposition": disposition})


@router.post(
    "/import",
    status_code=201,
    response_model=TaskOut,
    openapi_extra=accepts(None, SAFETENSORS[0], writes=True),
    summary="Import an exported task",
)
async def import_task(
    request: Request,
    services: ServicesDep,
    call: CallDep,
    name: Annotated[Name | None, Query(description="A name for the new task.")] = None,
) -> Response:
    """The server must hold the same checkpoint, by sha256; else 409."""

    async def work() -> Response:
        media_type = media_type_of(request)
        if media_type not in ("", "application/octet-stream", *SAFETENSORS):
            raise UnsupportedBody(f"An export comes as {SAFETENSORS[0]}, not {media_type!r}.")
        record = await services.transfer.import_(await body_of(request), name, call)
        return task_response(record, 201, {"Location": f"/v1/tasks/{record.id}"})

    return await once(request, services, call, work)
