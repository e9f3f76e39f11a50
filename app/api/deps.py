"""What every route needs: the services, the metrics, the call with its deadline, and its query checked."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

from fastapi import Depends, Header, Request
from starlette.requests import ClientDisconnect

from app.api.errors import from_single
from app.api.metrics import Metrics
from app.config import Settings
from app.core.errors import DeadlinePassed, Malformed
from app.services import Services
from app.services.call import Call

T = TypeVar("T")

WATCH_AFTER_S = 0.05
"""A request that is answered sooner is not worth a watch on its client."""
REPEATABLE = {"example_id"}


class BadHeader(Malformed):
    """A header that cannot be read."""

    code = "bad-header"
    title = "A header cannot be read"


# All `async`, though none awaits: FastAPI sends plain functions to a thread, which costs more than all the rest here.


async def services_of(request: Request) -> Services:
    """The services that `create_app` wired."""
    services: Services = request.app.state.services
    return services


async def metrics_of(request: Request) -> Metrics:
    """This app's metrics."""
    metrics: Metrics = request.app.state.metrics
    return metrics


async def call_of(
    request: Request,
    x_deadline_ms: Annotated[str | None, Header(description="Milliseconds that the answer may take.")] = None,
) -> Call:
    """The call of a request: until when it may run."""
    settings: Settings = request.app.state.settings
    allowed_s = settings.deadline_s
    if x_deadline_ms is not None:
        text = x_deadline_ms
        if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text)):
            raise BadHeader("X-Deadline-Ms is the whole number of milliseconds that the answer may take.")
        allowed_s = min(allowed_s, int(text) / 1000)
    return Call(time.monotonic() + allowed_s)


async def if_match_of(
    if_match: Annotated[str | None, Header(description="ETags; the task must be at one of them, else 412.")] = None,
) -> str | None:
    """The `If-Match` header."""
    return if_match


async def known_query(request: Request) -> None:
    """Refuse query parameters that the route does not know, and those that are given twice."""
    if not request.url.query:
        return
    route = request.scope["route"]
    known = {field.alias for field in route.dependant.query_params}
    known |= {one["name"] for one in (route.openapi_extra or {}).get("parameters", [])}
    seen: set[str] = set()
    for name, _ in request.query_params.multi_items():
        if name not in known:
            raise from_single(f"/query/{name}", "There is no such parameter here.", "extra-forbidden")
        if name in seen and name not in REPEATABLE:
            raise from_single(f"/query/{name}", "This parameter is given twice.", "repeated")
        seen.add(name)


ServicesDep = Annotated[Services, Depends(services_of)]
MetricsDep = Annotated[Metrics, Depends(metrics_of)]
CallDep = Annotated[Call, Depends(call_of)]
IfMatchDep = Annotated[str | None, Depends(if_match_of)]


async def attended(request: Request, call: Call, work: Callable[[], Awaitable[T]]) -> T:
    """Read the body, then do the work, as long as the deadline has not passed and the client waits.

    Else the work is cancelled and nothing is stored; if it could not be stopped any more, its result counts.
    Raises: `DeadlinePassed`; `ClientDisconnect` when the client left.
    """
    await _body_in_time(request, call)
    call.timing.begin()
    task = asyncio.ensure_future(work())
    left: asyncio.Future[None] | None = None
    try:
        await asyncio.wait({task}, timeout=min(WATCH_AFTER_S, call.left_s))
        if not task.done():
            left = asyncio.ensure_future(_client_left(request))
            await asyncio.wait({task, left}, timeout=call.left_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone = left is not None and left.done()
        if left is not None:
            left.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
    if not task.cancelled():
        return task.result()
    if gone:
        raise ClientDisconnect
    raise DeadlinePassed("The deadline passed before the answer was ready.")


async def _body_in_time(request: Request, call: Call) -> None:
    """Have the whole body in memory: from then on the watch on the client may take what it receives."""
    try:
        async with asyncio.timeout(call.left_s):
            await request.body()
    except TimeoutError as error:
        raise DeadlinePassed("The body did not arrive before the deadline.") from error


async def _client_left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
