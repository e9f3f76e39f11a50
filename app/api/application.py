"""The ASGI application: the framework, and beside it a straight way to the one route that is asked all the time.

FastAPI finds a route and its dependencies anew for every request, which costs more than a prediction from vectors does
as a whole. So `POST /v1/tasks/{id}/predict` is called straight. It is the same function, which stands in
`routes/predictions.py` like any other, under the same middleware: the framework describes it, and takes whatever is not
quite this request.
"""

from typing import Any, Final, final

from fastapi import FastAPI
from starlette.datastructures import State
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.deps import call_within, known_query
from app.api.headers import Asked, header
from app.api.metrics import Metrics
from app.api.middleware import RequestMiddleware
from app.api.routes import predictions
from app.config import Settings

BEFORE: Final = "/v1/tasks/"
AFTER: Final = "/predict"
TASK: Final = "imprint.task"


@final
class Application:
    """What the server runs. `state` and `openapi` are the framework's."""

    def __init__(self, framework: FastAPI, settings: Settings, metrics: Metrics) -> None:
        limit_bytes = settings.limits.body_size_bytes
        framework.add_middleware(RequestMiddleware, metrics=metrics, body_size_bytes=limit_bytes)
        self._framework: ASGIApp = framework
        self.state: State = framework.state
        self._openapi = framework.openapi
        self._deadline_s = settings.deadline_s
        self._metrics = metrics
        self._straight = RequestMiddleware(self._predict, metrics=metrics, body_size_bytes=limit_bytes)
        (self._route,) = (
            one for one in predictions.router.routes if getattr(one, "endpoint", 0) is predictions.predict
        )

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document."""
        return self._openapi()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        task_id = _task_of(scope)
        if task_id is None:
            await self._framework(scope, receive, send)
        else:
            scope[TASK] = task_id
            await self._straight(scope, receive, send)

    async def _predict(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises what the route raises: the middleware answers with a problem."""
        scope["route"] = self._route
        request = Asked(scope, receive)
        call = call_within(self._deadline_s, header(request, b"x-deadline-ms"))
        await known_query(request)
        response = await predictions.predict(request, scope[TASK], self.state.services, self._metrics, call)
        await response(scope, receive, send)


def _task_of(scope: Scope) -> str | None:
    """The task that is asked to predict, or `None` for any other request."""
    if scope["type"] != "http" or scope["method"] != "POST":
        return None
    path: str = scope["path"]
    if not (path.startswith(BEFORE) and path.endswith(AFTER)):
        return None
    task_id = path[len(BEFORE) : -len(AFTER)]
    return task_id if task_id and "/" not in task_id else None
