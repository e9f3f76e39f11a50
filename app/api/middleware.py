"""Around every request: its id, the limit on its body, one log line, its metrics, and a last net for errors."""

import asyncio
import re
import time
from http import HTTPStatus
from random import Random
from typing import final

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api import logs
from app.api.errors import problem, shown
from app.api.headers import KEY, SentHeaders
from app.api.metrics import Metrics
from app.core.errors import TooLarge, Unavailable

REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
QUIET = {"/livez", "/readyz", "/metrics"}

UNREAD = {413, 504}
"""After these the rest of the body may still be on its way: the connection is of no more use."""

DISCARDED_BYTES = 1024 * 1024
"""A refused body up to this is left to the server, which reads it to its end: that is cheaper for both sides than a new
connection, and the client sees its answer even if it looks for it only after sending."""

_ids = Random()  # noqa: S311 - ids are to differ, not to be hard to guess; its seed comes from the system

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
        sent = scope[KEY] = SentHeaders(scope)
        offered = sent.get(b"x-request-id")
        request_id = offered if offered and REQUEST_ID.fullmatch(offered) else f"{_ids.getrandbits(128):032x}"
        scope["request_id"] = request_id
        status = 0
        body = _Body(receive, sent, self.body_size_bytes)
        head = scope["method"] == "HEAD"
        if head:  # is a GET whose body stays here
            scope = {**scope, "method": "GET"}

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = message["headers"]
                headers.append((b"x-request-id", request_id.encode("latin-1")))
                if status in UNREAD or (status == HTTPStatus.TOO_MANY_REQUESTS and not body.discardable):
                    headers.append((b"connection", b"close"))
            elif head:
                message = {**message, "body": b""}
            await send(message)

        served = logs.REQUEST_ID.set(request_id)
        try:
            body.check_declared()
            await self.app(scope, body.receive, send_with_id)
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
            # No name of this frame may keep the error: its traceback holds the frame, and with it the body.
            await problem(Request(scope), shown(error))(scope, receive, send_with_id)
        finally:
            self._note(scope, status, time.perf_counter() - started)
            logs.REQUEST_ID.reset(served)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")
        self.metrics.request(scope["method"], route, status, seconds)
        fields = {
            "method": scope["method"],
            "path": scope["path"],
            "status": status or "client left",
            "duration_ms": round(seconds * 1000, 2),
            "request_id": scope["request_id"],
        }
        logs.request(fields, quiet=route in QUIET)


@final
class _Body:
    """What a request sends, held to a limit, and how much of it may still be on its way."""

    def __init__(self, receive: Receive, headers: SentHeaders, limit_bytes: int) -> None:
        self._receive = receive
        self._limit_bytes = limit_bytes
        declared = headers.get(b"content-length") or ""
        self._declared_bytes = int(declared) if declared.isdigit() else 0
        self._open_ended = b"transfer-encoding" in headers or b"expect" in headers
        self._seen_bytes = 0
        self._whole = False

    def check_declared(self) -> None:
        """Raises `BodyTooLarge` before anything is read, where the client tells the size."""
        if self._declared_bytes > self._limit_bytes:
            raise BodyTooLarge(self._limit_bytes)

    async def receive(self) -> Message:
        """The next message. Raises `BodyTooLarge`."""
        message = await self._receive()
        if message["type"] == "http.request":
            self._seen_bytes += len(message.get("body", b""))
            self._whole = not message.get("more_body", False)
            if self._seen_bytes > self._limit_bytes:
                raise BodyTooLarge(self._limit_bytes)
        return message

    @property
    def discardable(self) -> bool:
        """Is it here, or surely little, so that the connection can be used again after an answer that read none?"""
        return self._whole or (not self._open_ended and self._declared_bytes <= DISCARDED_BYTES)
