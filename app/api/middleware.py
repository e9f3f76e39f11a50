"""Around every request: its id, the limit on its body, one log line, its metrics, and a last net for errors."""

import asyncio
import re
import time
from uuid import uuid4

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import problem
from app.api.metrics import Metrics
from app.core.errors import ImprintError, TooLarge, Unavailable

REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
QUIET = {"/livez", "/readyz", "/metrics"}

UNREAD = {413, 504}
"""After these the rest of the body may still be on its way: the connection is of no more use."""

log = structlog.get_logger("imprint.http")


class BodyTooLarge(TooLarge):
    """More bytes than `limits.body_size_bytes`."""

    code = "body-too-large"
    title = "The body is too large"

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"The body is larger than {limit_bytes} bytes; GET /v1/limits shows what is allowed.")


class RequestMiddleware:
    """Plain ASGI, so that it costs little and sees the framework's own errors too."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, body_size_bytes: int) -> None:
        self.app = app
        self.metrics = metrics
        self.body_size_bytes = body_size_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        sent = Headers(scope=scope)
        offered = sent.get("x-request-id", "")
        request_id = offered if REQUEST_ID.fullmatch(offered) else uuid4().hex
        scope["request_id"] = request_id
        status = 0
        head = scope["method"] == "HEAD"
        if head:  # is a GET whose body stays here
            scope = {**scope, "method": "GET"}

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                if status in UNREAD:
                    headers["Connection"] = "close"
            elif head:
                message = {**message, "body": b""}
            await send(message)

        structlog.contextvars.bind_contextvars(request_id=request_id)
        try:
            declared = sent.get("content-length", "")
            if declared.isdigit() and int(declared) > self.body_size_bytes:
                raise BodyTooLarge(self.body_size_bytes)
            await self.app(scope, self._limited(receive), send_with_id)
        except asyncio.CancelledError:  # the server shuts down and waits no longer
            if not status:
                gone = Unavailable("The server is shutting down.", retry_after_s=1.0)
                await problem(Request(scope), gone)(scope, receive, send_with_id)
            raise
        except ClientDisconnect:
            log.debug("client left")
        except Exception as error:
            if status:  # the answer has begun: nothing sensible can follow it
                raise
            known = isinstance(error, ImprintError)
            if not known:
                log.exception("request failed")
            shown = error if known else ImprintError("The server failed to answer; its log has the details.")
            assert isinstance(shown, ImprintError)  # noqa: S101
            await problem(Request(scope), shown)(scope, receive, send_with_id)
        finally:
            self._note(scope, status, time.perf_counter() - started)
            structlog.contextvars.unbind_contextvars("request_id")

    def _limited(self, receive: Receive) -> Receive:
        seen_bytes = 0

        async def limited() -> Message:
            nonlocal seen_bytes
            message = await receive()
            if message["type"] == "http.request":
                seen_bytes += len(message.get("body", b""))
                if seen_bytes > self.body_size_bytes:
                    raise BodyTooLarge(self.body_size_bytes)
            return message

        return limited

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")
        self.metrics.request(scope["method"], route, status, seconds)
        level = log.debug if route in QUIET else log.info
        level(
            "request",
            method=scope["method"],
            path=scope["path"],
            status=status or "client left",
            duration_ms=round(seconds * 1000, 2),
        )
