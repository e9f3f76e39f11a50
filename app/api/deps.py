"""What every route needs: the services, the metrics, and the call with its deadline."""

import asyncio
import time
from collections.abc import Coroutine
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request
from starlette.requests import ClientDisconnect

from app.api.metrics import Metrics
from app.config import Settings
from app.core.errors import Malformed
from app.services import Services
from app.services.call import Call

T = TypeVar("T")

WATCH_AFTER_S = 0.05
"""A request that is answered sooner is not worth a watch on its client."""


class BadHeader(Malformed):
    """A header that cannot be read."""

    code = "bad-header"
    title = "A header cannot be read"


def services_of(request: Request) -> Services:
    """The services that `create_app` wired."""
    services: Services = request.app.state.services
    return services


def metrics_of(request: Request) -> Metrics:
    """This app's metrics."""
    metrics: Metrics = request.app.state.metrics
    return metrics


def call_of(request: Request) -> Call:
    """The call of a request: until when it may run."""
    settings: Settings = request.app.state.settings
    allowed_s = settings.deadline_s
    header = request.headers.get("x-deadline-ms")
    if header is not None:
        if not (header.isascii() and header.isdigit() and 0 < int(header[:12]) < 10**9):
            raise BadHeader("X-Deadline-Ms is the whole number of milliseconds that the answer may take.")
        allowed_s = min(allowed_s, int(header) / 1000)
    return Call(time.monotonic() + allowed_s)


def if_match_of(request: Request) -> str | None:
    """The `If-Match` header."""
    return request.headers.get("if-match")


ServicesDep = Annotated[Services, Depends(services_of)]
MetricsDep = Annotated[Metrics, Depends(metrics_of)]
CallDep = Annotated[Call, Depends(call_of)]
IfMatchDep = Annotated[str | None, Depends(if_match_of)]


async def attended(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Do the work of a request as long as its client waits; then it is cancelled and nothing is stored.

    The body must have been read. Raises: `ClientDisconnect` when the client left.
    """
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=WATCH_AFTER_S)
        if done:
            return task.result()
        left = asyncio.ensure_future(_client_left(request))
        try:
            await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            left.cancel()
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        task.cancel()


async def _client_left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
