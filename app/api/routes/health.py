"""Liveness, readiness and metrics."""

import shutil

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from app.api.deps import MetricsDep, ServicesDep
from app.api.responses import json_response
from app.core.errors import Fault, ImprintError, Unavailable

router = APIRouter(tags=["health"])

LEAST_FREE_BYTES = 64 * 1024 * 1024


class NotReady(Unavailable):
    """A part that every request needs does not work."""

    code = "not-ready"
    title = "Not ready"


@router.get("/", include_in_schema=False)
async def home() -> Response:
    """Until there is a console, the API's page is what there is to see."""
    return RedirectResponse("docs")


@router.get("/livez", response_model=dict[str, str], summary="Is the process alive?")
async def livez() -> Response:
    """200 as long as the event loop turns; a full queue or a broken engine does not change it."""
    return json_response({"status": "alive"})


@router.get("/readyz", response_model=dict[str, str], summary="Can requests be served?")
async def readyz(request: Request, services: ServicesDep) -> Response:
    """503 while the engine's thread, the database or the disk does not work. A full queue is still ready."""
    faults = []
    health = services.engine.health()
    if not health.ok:
        faults.append(Fault("/engine", health.reason, "engine"))
    try:
        await services.workers.store(services.registry.check)
    except ImprintError as error:
        faults.append(Fault("/database", error.detail, error.code))
    free_bytes = shutil.disk_usage(request.app.state.settings.data_dir).free
    if free_bytes < LEAST_FREE_BYTES:
        faults.append(Fault("/disk", f"Only {free_bytes} bytes are free.", "disk"))
    if faults:
        raise NotReady("Not ready: " + " ".join(one.detail for one in faults), faults=faults, retry_after_s=1.0)
    return json_response({"status": "ready", "engine": "ok", "database": "ok", "disk": "ok"})


@router.get("/metrics", response_class=Response, summary="Prometheus metrics")
async def show_metrics(metrics: MetricsDep) -> Response:
    """In Prometheus' text format."""
    return Response(metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")
