"""What every route needs: the services, the metrics, the call with its deadline, and its query checked."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar, final

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
    return call_within(settings.deadline_s, x_deadline_ms)


def call_within(allowed_s: float, deadline_ms: str | None) -> Call:
    """A call that may take so many seconds, or what its header says where that is less. Raises `BadHeader`."""
    if deadline_ms is not None:
        if not (deadline_ms.isascii() and deadline_ms.isdigit() and len(deadline_ms) <= 9 and int(deadline_ms)):
            raise BadHeader("X-Deadline-Ms is the whole number of milliseconds that the answer may take.")
        allowed_s = min(allowed_s, int(deadline_ms) / 1000)
    return Call(time.monotonic() + allowed_s)


async def if_match_of(
    if_match: Annotated[str | None, Header(description="ETags; the task must be at one of them, else 412.")] = None,
) -> str | None:
    """The `If-Match` header."""
    return if_match


async def known_query(request: Request) -> None:
    """Refuse query parameters that the route does not know, and those that are given twice."""
    if not request.scope["query_string"]:
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
    watch = _Watch(request, call)
    try:
        await request.body()  # all of it: from then on the watch may take what the client sends
        watch.has_body = True
        call.timing.begin()
        return await work()
    except asyncio.CancelledError:
        if watch.reason is None:  # somebody else cancelled
            raise
        raise watch.reason from None
    finally:
        watch.end()


@final
class _Watch:
    """Cancels the coroutine that made it when the deadline passes or the client leaves; `reason` says which.

    Nothing runs beside it unless the work takes a while: most work is done before. While the body is read, a client
    that leaves is seen by whoever reads it.
    """

    def __init__(self, request: Request, call: Call) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101
        self.has_body = False
        self.reason: Exception | None = None
        self._task = task
        self._request = request
        self._call = call
        self._looking: asyncio.Task[None] | None = None
        self._timer = task.get_loop().call_later(min(WATCH_AFTER_S, call.left_s), self._begin)

    def _begin(self) -> None:
        loop, left_s = self._task.get_loop(), self._call.left_s
        if self.has_body:
            self._looking = loop.create_task(self._look())
        elif left_s > 0:
            self._timer = loop.call_later(min(WATCH_AFTER_S, left_s), self._begin)
        else:
            self._stop(DeadlinePassed("The body did not arrive before the deadline."))

    async def _look(self) -> None:
        try:
            async with asyncio.timeout(self._call.left_s):
                while (await self._request.receive())["type"] != "http.disconnect":
                    pass
            self._stop(ClientDisconnect())
        except TimeoutError:
            self._stop(DeadlinePassed("The deadline passed before the answer was ready."))

    def _stop(self, reason: Exception) -> None:
        self.reason = reason
        self._task.cancel()

    def end(self) -> None:
        """Look no longer; a cancellation of ours has been dealt with."""
        self._timer.cancel()
        # Let go of by name: a cancelled task keeps the frames that it was cancelled in, and they keep this watch.
        looking, self._looking = self._looking, None
        if looking is not None:
            looking.cancel()
        if self.reason is not None:
            self._task.uncancel()
            self.reason = None  # it is on its way: kept here, it and the frames that it has seen would keep one another
