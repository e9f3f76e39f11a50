"""Which failure is which HTTP status, and how it reads: RFC 9457 problem details on every path."""

import math
import re
from collections.abc import Sequence
from http import HTTPStatus

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic_core import ErrorDetails, to_json
from starlette.exceptions import HTTPException

from app.core import errors
from app.core.errors import Fault, ImprintError

STATUS: dict[type[ImprintError], int] = {
    errors.Malformed: 400,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.Gone: 410,
    errors.PreconditionFailed: 412,
    errors.TooLarge: 413,
    errors.UnsupportedMedia: 415,
    errors.Invalid: 422,
    errors.Busy: 429,
    errors.Unavailable: 503,
    errors.DeadlinePassed: 504,
    errors.StorageFull: 507,
    ImprintError: 500,
}
"""By family; the nearest base class of an error decides."""

CONTENT_TYPE = "application/problem+json"
TAG = "\x00"
"""First character of the names of union branches, which no pointer shows."""

log = structlog.get_logger("imprint.errors")


def status_of(error: ImprintError) -> int:
    """The HTTP status of an error."""
    return next(STATUS[base] for base in type(error).__mro__ if base in STATUS)


def problem_fields(error: ImprintError, instance: str, request_id: str) -> dict[str, object]:
    """The members of the problem document."""
    return {
        "type": f"urn:imprint:problem:{error.code}",
        "title": error.title,
        "status": status_of(error),
        "detail": error.detail,
        "instance": instance,
        "code": error.code,
        "request_id": request_id,
        "errors": [{"pointer": one.pointer, "detail": one.detail, "code": one.code} for one in error.faults],
    }


def problem(request: Request, error: ImprintError, headers: dict[str, str] | None = None) -> Response:
    """The response that tells of an error."""
    fields = problem_fields(error, request.scope["path"], request_id_of(request))
    sent = dict(headers or {})
    if error.retry_after_s is not None:
        sent["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    return Response(to_json(fields), status_of(error), sent, CONTENT_TYPE)


def request_id_of(request: Request) -> str:
    """The id that the middleware gave to the request."""
    return str(request.scope.get("request_id", ""))


def shown(error: Exception) -> ImprintError:
    """What the client is told of an error; one that is the server's is logged."""
    told = error if isinstance(error, ImprintError) else None
    if told is None or status_of(told) == HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("request failed", exc_info=error)
    return told or ImprintError("The server failed to answer; its log has the details.")


def from_validation(found: Sequence[ErrorDetails], prefix: str = "") -> ImprintError:
    """Pydantic's findings as one of ours, with a pointer each."""
    faults = [Fault(prefix + _pointer(one["loc"]), _sentence(one), one["type"].replace("_", "-")) for one in found[:20]]
    if len(faults) == 1:
        return errors.Invalid(f"{faults[0].pointer or 'The body'}: {faults[0].detail}", faults=faults)
    return errors.Invalid(f"{len(found)} fields of the request are not valid; see errors.", faults=faults)


def from_single(pointer: str, detail: str, code: str = "invalid") -> ImprintError:
    """One field at fault that no schema could see."""
    return errors.Invalid(f"{pointer}: {detail}", faults=[Fault(pointer, detail, code)])


def _pointer(location: tuple[int | str, ...]) -> str:
    parts = [str(part) for part in location if not str(part).startswith(TAG)]
    return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in parts)


def _sentence(found: ErrorDetails) -> str:
    if found["type"] == "extra_forbidden":
        return "There is no such field."
    if found["type"] == "missing":
        return "This field is required."
    return found["msg"].removeprefix("Value error, ") + "."


def install(app: FastAPI) -> None:
    """Make every failure, the framework's own too, a problem document."""
    app.add_exception_handler(ImprintError, _on_imprint_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_error)


def _on_imprint_error(request: Request, error: Exception) -> Response:
    return problem(request, shown(error))


def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    return problem(request, from_validation(list(error.errors())))


def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    phrase = HTTPStatus(error.status_code).phrase
    details = {
        404: f"There is no {request.url.path} here; /docs lists what there is.",
        405: f"{request.method} is not possible on {request.url.path}.",
    }
    shown = ImprintError(details.get(error.status_code, phrase + "."))
    fields = problem_fields(shown, request.url.path, request_id_of(request))
    code = phrase.lower().replace(" ", "-")
    fields |= {"status": error.status_code, "title": phrase, "code": code, "type": f"urn:imprint:problem:{code}"}
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_methods(request)) or headers.get("Allow", "GET")
    return Response(to_json(fields), error.status_code, headers, CONTENT_TYPE)


def _methods(request: Request) -> list[str]:
    """What the path can be asked, by all of its routes."""
    found: set[str] = set()
    for template, operations in request.app.openapi()["paths"].items():
        pattern = re.sub(r"\\\{[^}]+\\\}", ".+" if template.endswith("{label}") else "[^/]+", re.escape(template))
        if re.fullmatch(pattern, request.url.path):
            found |= {method.upper() for method in operations}
    return sorted(found | ({"HEAD"} if "GET" in found else set()))
