"""Answers as JSON, without building a model where none is needed."""

from collections.abc import Mapping

from fastapi import Response
from pydantic import BaseModel
from pydantic_core import to_json

from app.services.call import Timing


def json_response(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response of plain values, dataclasses or models."""
    body = content.model_dump_json() if isinstance(content, BaseModel) else to_json(content)
    return Response(body, status, dict(headers or {}), "application/json")


def server_timing(timing: Timing) -> dict[str, str]:
    """The `Server-Timing` header: milliseconds of queue, decode, device and load."""
    spent = {
        "queue": timing.queue_s,
        "decode": timing.decode_s,
        "device": timing.device_s,
        "load": timing.load_s,
    }
    return {"Server-Timing": ", ".join(f"{name};dur={seconds * 1000:.3f}" for name, seconds in spent.items())}
