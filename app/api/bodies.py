"""Reading bodies: JSON into schemas; multipart, zip, safetensors and bare files into raw inputs."""

import codecs
import json
from collections import Counter
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from app.api.errors import from_single, from_validation
from app.api.headers import header
from app.api.multipart import Part, read_multipart
from app.backbones._base import Modality
from app.codecs import RawExample, RawInput, read_archive, read_vectors
from app.codecs.pointer import pointer as pointer_to
from app.codecs.pointer import shown
from app.core.errors import Invalid, Malformed, UnsupportedMedia
from app.services import Services

M = TypeVar("M", bound=BaseModel)

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data"
ZIP = ("application/zip", "application/x-zip-compressed")
SAFETENSORS = ("application/vnd.safetensors", "application/x-safetensors", "application/safetensors")
SMALL_BYTES = 16 * 1024
"""A smaller JSON body is parsed where it is: a hop to a thread would cost more."""


class EmptyBody(Malformed):
    """A POST without a body."""

    code = "empty-body"
    title = "The body is empty"


class RepeatedName(Invalid):
    """A JSON object that has one name twice."""

    code = "repeated-name"
    title = "A name stands twice"


class UnsupportedBody(UnsupportedMedia):
    """A Content-Type that this route does not read."""

    code = "unsupported-content-type"
    title = "Unsupported content type"


def media_type_of(request: Request) -> str:
    """The body's media type without parameters, lower case."""
    return (header(request, b"content-type") or "").partition(";")[0].strip().lower()


def is_json(request: Request) -> bool:
    """Whether the body is JSON, as it is when nothing else is said. Raises `UnsupportedBody` for an HTML form."""
    media_type = media_type_of(request)
    if media_type == FORM:
        raise UnsupportedBody(f"The Content-Type is {FORM}, as curl sends by itself; say 'Content-Type: {JSON}'.")
    return media_type in ("", JSON) or media_type.endswith("+json")


async def body_of(request: Request) -> bytes:
    """The whole body. Raises `EmptyBody`."""
    coding = header(request, b"content-encoding")
    if coding is not None and coding.strip().lower() != "identity":
        raise UnsupportedBody(f"A body with Content-Encoding {coding!r} is not read here; send it as it is.")
    body = await request.body()
    if not body:
        raise EmptyBody("The body is empty; /docs shows what belongs there.")
    return body


async def json_of(request: Request, schema: type[M], services: Services) -> M:
    """The body as `schema`. Raises `Malformed` for broken JSON, `Invalid` with a pointer per fault."""
    if not is_json(request):
        raise UnsupportedBody(f"This takes {JSON}, not {media_type_of(request)!r}.")
    charset = (header(request, b"content-type") or "").lower().partition("charset=")[2].strip(' "')
    if charset not in ("", "utf-8", "utf8", "us-ascii"):
        raise UnsupportedBody(f"JSON is always UTF-8 here; charset {charset!r} is not read.")
    body = (await body_of(request)).removeprefix(codecs.BOM_UTF8)
    if len(body) <= SMALL_BYTES:
        return parse(schema, body)
    return await services.workers.decode(parse, schema, body)


def parse(schema: type[M], body: bytes) -> M:
    """JSON bytes as `schema`."""
    try:
        value = from_json(body)
    except ValueError as error:
        raise Malformed(f"The body is not valid JSON: {error}.") from error
    try:
        # Not model_validate_json: where a function tells union branches apart, that converts everything twice.
        given = schema.model_validate(value)
    except ValidationError as error:
        raise from_validation(error.errors(include_url=False)) from error
    refuse_repeated_names(body, value)
    return given


def refuse_repeated_names(body: bytes, value: object) -> None:
    """Refuse an object that names something twice: parsers keep the last one only, and examples would be lost.

    Raises `RepeatedName`. As many names in the bytes as in what was parsed means that none was lost; only a body
    that has more (or has them in its texts) is parsed again, name by name.
    """
    if body.count(b'":') == _names(value):
        return

    def pairs(found: list[tuple[str, object]]) -> dict[str, object]:
        counts = Counter(name for name, _ in found)
        twice = next((name for name, count in counts.items() if count > 1), None)
        if twice is not None:
            support = value.get("support") if isinstance(value, dict) else None
            place = pointer_to("support", twice) if isinstance(support, dict) and twice in support else None
            raise RepeatedName(f"The name {shown(twice)} stands twice in one object.", pointer=place)
        return dict(found)

    json.loads(body, object_pairs_hook=pairs)


def _names(value: object) -> int:
    """How many names the objects in a JSON value hold."""
    if isinstance(value, dict):
        return len(value) + sum(map(_names, value.values()))
    if isinstance(value, list) and value and not isinstance(value[0], float | int):
        return sum(map(_names, value))
    return 0


def query_of(request: Request, schema: type[M]) -> M:
    """The query string as `schema`."""
    try:
        return schema.model_validate_strings(dict(request.query_params), strict=False)
    except ValidationError as error:
        raise from_validation(error.errors(include_url=False), "/query") from error


def refuse_query(request: Request) -> None:
    """Options of a JSON request stand in its body: refuse them in the query, where nobody would read them."""
    if not request.scope["query_string"]:
        return
    for name in request.query_params:
        raise from_single(f"/query/{name}", "Beside a JSON body this belongs into the body.", "extra-forbidden")


async def examples_of(request: Request, modality: Modality, services: Services) -> list[RawExample]:
    """A support set in a multipart or zip body. Raises `UnsupportedBody` for anything else."""
    media_type = media_type_of(request)
    body = await body_of(request)
    if media_type == MULTIPART:
        parts = await services.workers.decode(read_multipart, body, request.headers["content-type"], services.limits)
        return _examples_of_parts(parts, modality)
    if media_type in ZIP:
        return await services.workers.decode(read_archive, body, modality, services.limits)
    raise UnsupportedBody(f"A support set comes as {JSON}, {MULTIPART} or {ZIP[0]}, not {media_type!r}.")


async def inputs_of(request: Request, modality: Modality, services: Services) -> list[RawInput]:
    """Inputs in a body that is not JSON: multipart parts, safetensors, or the one input itself."""
    media_type = media_type_of(request)
    body = await body_of(request)
    if media_type == MULTIPART:
        parts = await services.workers.decode(read_multipart, body, request.headers["content-type"], services.limits)
        if not parts:
            raise EmptyBody("The multipart body has no parts.")
        return [_raw_part(part, modality, f"/parts/{index}") for index, part in enumerate(parts)]
    if media_type in SAFETENSORS:
        return await services.workers.decode(read_vectors, body, services.limits)
    return [RawInput("bytes", body, "", media_type or None)]


def _examples_of_parts(parts: list[Part], modality: Modality) -> list[RawExample]:
    counts: dict[str, int] = {}
    examples = []
    for part in parts:
        pointer = pointer_to("support", part.name)
        index = counts.get(part.name, 0)
        counts[part.name] = index + 1
        examples.append(RawExample(part.name, _raw_part(part, modality, f"{pointer}/{index}"), pointer))
    return examples


def _raw_part(part: Part, modality: Modality, pointer: str) -> RawInput:
    if modality == "image" and not part.is_file:
        try:
            return RawInput("base64", part.content.decode("ascii"), pointer)
        except UnicodeDecodeError:
            return RawInput("bytes", part.content, pointer, part.media_type)
    return RawInput("bytes", part.content, pointer, part.media_type)
