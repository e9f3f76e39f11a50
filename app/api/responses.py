"""Answers as JSON, without building a model where none is needed."""

from collections.abc import Callable, Mapping
from typing import Final, final

from fastapi import Request, Response
from pydantic import BaseModel
from pydantic_core import to_json

from app.services import Services
from app.services.call import Timing

SMALL_SCORES: Final = 250
"""An answer that lists so many is written where it is: that takes less than the way to a thread."""


def json_response(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response of plain values, dataclasses or models."""
    body = content.model_dump_json().encode() if isinstance(content, BaseModel) else to_json(content)
    return _Json(body, status, headers or {})


@final
class _Json(Response):
    """Makes its headers at once: what they are is known, and every prediction has them."""

    media_type = "application/json"

    def __init__(self, body: bytes, status: int, headers: Mapping[str, str]) -> None:
        self.body = body
        self.status_code = status
        self.background = None
        self.raw_headers = [
            (b"content-length", str(len(body)).encode()),
            (b"content-type", b"application/json"),
            *((name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()),
        ]


async def scores_json(
    services: Services, content: Callable[[], object], headers: Mapping[str, str], scores: int
) -> Response:
    """A JSON response that lists so many scores: where they are many, in a thread, so that the event loop goes on."""

    def written() -> Response:
        return json_response(content(), headers=headers)

    return written() if scores <= SMALL_SCORES else await services.workers.decode(written)


def not_modified(request: Request, etag: str, **headers: str) -> Response | None:
    """A 304 when `If-None-Match` holds the ETag, compared weakly as RFC 9110 wants."""
    offered = request.headers.get("if-none-match")
    if offered is None:
        return None
    known = {one.strip().removeprefix("W/") for one in offered.split(",")}
    if "*" not in known and etag.removeprefix("W/") not in known:
        return None
    return Response(status_code=304, headers={"ETag": etag, **headers})


def server_timing(timing: Timing) -> dict[str, str]:
    """The `Server-Timing` header: milliseconds of queue, decode, device and load."""
    queue_ms, decode_ms, device_ms, load_ms = (
        1000 * seconds for seconds in (timing.queue_s, timing.decode_s, timing.device_s, timing.load_s)
    )
    shown = f"queue;dur={queue_ms:.3f}, decode;dur={decode_ms:.3f}, device;dur={device_ms:.3f}, load;dur={load_ms:.3f}"
    return {"Server-Timing": shown}
