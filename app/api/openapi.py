"""The OpenAPI document: bodies that are read by hand are described here."""

from typing import Any, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

REF = "#/components/schemas/{model}"
IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Any string; a repeated request with it gets the first one's answer and changes nothing.",
    "schema": {"type": "string", "maxLength": 255},
}
_described: set[type[BaseModel]] = set()


def accepts(
    schema: type[BaseModel] | None, *media_types: str, query: type[BaseModel] | None = None, writes: bool = False
) -> dict[str, Any]:
    """`openapi_extra` of a route that takes this JSON or a body of these types, and these query parameters.

    `writes`: it honours `Idempotency-Key`.
    """
    content: dict[str, Any] = {}
    if schema is not None:
        _described.add(schema)
        content["application/json"] = {"schema": {"$ref": REF.format(model=schema.__name__)}}
    for media_type in media_types:
        content[media_type] = {"schema": {"type": "string", "format": "binary"}}
        if media_type == "multipart/form-data":
            part = {"type": "array", "items": {"type": "string", "format": "binary"}}
            content[media_type] = {"schema": {"type": "object", "additionalProperties": part}}
    extra: dict[str, Any] = {"requestBody": {"required": True, "content": content}} if content else {}
    parameters = [] if query is None else _query_parameters(query, optional_body=bool(content))
    if writes:
        parameters.append(IDEMPOTENCY_KEY)
    return {**extra, "parameters": parameters} if parameters else extra


def _query_parameters(query: type[BaseModel], *, optional_body: bool) -> list[dict[str, Any]]:
    note = " Only beside a body that is not JSON." if optional_body else ""
    found = []
    for name, schema in query.model_json_schema()["properties"].items():
        about = schema.pop("description", "") + note
        found.append({"name": name, "in": "query", "required": False, "description": about.strip(), "schema": schema})
    return found


class Problem(BaseModel):
    """RFC 9457 problem details."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str
    errors: list["ProblemFault"]


class ProblemFault(BaseModel):
    """One field at fault: a JSON pointer into the request."""

    pointer: str
    detail: str
    code: str


def document(app: FastAPI) -> dict[str, Any]:
    """The whole document: every operation can answer with a problem."""
    if app.openapi_schema:
        return app.openapi_schema
    made = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    models: list[type[BaseModel]] = sorted([*_described, Problem], key=lambda model: model.__name__)
    pairs: list[tuple[type[BaseModel], Literal["validation"]]] = [(model, "validation") for model in models]
    _, definitions = models_json_schema(pairs, ref_template=REF)
    schemas = made.setdefault("components", {}).setdefault("schemas", {})
    for name, schema in definitions["$defs"].items():
        schemas.setdefault(name, schema)
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    problem = {"application/problem+json": {"schema": {"$ref": REF.format(model="Problem")}}}
    for operations in made["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            operation["responses"]["default"] = {"description": "A problem (RFC 9457).", "content": problem}
    app.openapi_schema = made
    return made
