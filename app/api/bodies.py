"""Reading bodies: JSON into schemas; multipart, zip, safetensors and bare files into raw inputs."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException

from app.api.errors import from_validation
from app.backbones._base import Modality
from app.codecs import RawExample, RawInput, read_archive, read_vectors
from app.codecs.pointer import pointer as pointer_to
from app.core.errors import Malformed, UnsupportedMedia
from app.core.limits import Limits
from app.services import Services

M = TypeVar("M", bound=BaseModel)

JSON = "application/json"
MULTIPART = "multipart/form-data"
ZIP = ("application/zip", "application/x-zip-compressed")
SAFETENSORS = ("application/vnd.safetensors", "application/x-safetensors", "application/safetensors")
SMALL_BYTES = 16 * 1024
"""A smaller JSON body is parsed where it is: a hop to a thread would cost more."""


class EmptyBody(Malformed):
    """A POST without a body."""

    code = "empty-body"
    title = "The body is empty"


class UnsupportedBody(UnsupportedMedia):
    """A Content-Type that this route does not read."""

    code = "unsupported-content-type"
    title = "Unsupported content type"


def media_type_of(request: Request) -> str:
    """The body's media type without parameters, lower case."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def body_of(request: Request) -> bytes:
    """The whole body. Raises `EmptyBody`."""
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding != "identity":
        raise UnsupportedBody(f"A body with Content-Encoding {coding!r} is not read here; send it as it is.")
    body = await request.body()
    if not body:
        raise EmptyBody("The body is empty; /docs shows what belongs there.")
    return body


async def json_of(request: Request, schema: type[M], services: Services) -> M:
    """The body as `schema`. Raises `Malformed` for broken JSON, `Invalid` with a pointer per fault."""
    media_type = media_type_of(request)
    if media_type not in ("", JSON) and not media_type.endswith("+json"):
        raise UnsupportedBody(f"This takes {JSON}, not {media_type!r}.")
    body = await body_of(request)
    if len(body) <= SMALL_BYTES:
        return parse(schema, body)
    return await services.workers.decode(parse, schema, body)


def parse(schema: type[M], body: bytes) -> M:
    """JSON bytes as `schema`."""
    try:
        return schema.model_validate_json(body)
    except ValidationError as error:
        raise from_validation(error.errors(include_url=False)) from error


def query_of(request: Request, schema: type[M]) -> M:
    """The query string as `schema`; unknown parameters are refused."""
    given: Mapping[str, str] = request.query_params
    try:
        return schema.model_validate(dict(given))
    except ValidationError as error:
        raise from_validation(error.errors(include_url=False), "/query") from error


async def examples_of(request: Request, modality: Modality, services: Services) -> list[RawExample]:
    """A support set in a multipart or zip body. Raises `UnsupportedBody` for anything else."""
    media_type = media_type_of(request)
    body = await body_of(request)
    if media_type == MULTIPART:
        async with _form_of(request, services.limits) as form:
            return await _examples_of_form(form, modality)
    if media_type in ZIP:
        return await services.workers.decode(read_archive, body, modality, services.limits)
    raise UnsupportedBody(f"A support set comes as {JSON}, {MULTIPART} or {ZIP[0]}, not {media_type!r}.")


async def inputs_of(request: Request, modality: Modality, services: Services) -> list[RawInput]:
    """Inputs in a body that is not JSON: multipart parts, safetensors, or the one input itself."""
    media_type = media_type_of(request)
    body = await body_of(request)
    if media_type == MULTIPART:
        async with _form_of(request, services.limits) as form:
            items = form.multi_items()
            return [await _raw_part(value, modality, f"/parts/{index}") for index, (_, value) in enumerate(items)]
    if media_type in SAFETENSORS:
        return await services.workers.decode(read_vectors, body, services.limits)
    return [RawInput("bytes", body, "", media_type or None)]


@asynccontextmanager
async def _form_of(request: Request, limits: Limits) -> AsyncIterator[FormData]:
    most = limits.examples + 1
    try:
        form = await request.form(max_files=most, max_fields=most, max_part_size=limits.image_size_bytes)
    except (MultiPartException, HTTPException) as error:
        reason = error.message if isinstance(error, MultiPartException) else error.detail
        raise Malformed(f"The multipart body cannot be read: {reason}") from error
    try:
        yield form
    finally:
        await form.close()


async def _examples_of_form(form: FormData, modality: Modality) -> list[RawExample]:
    counts: dict[str, int] = {}
    examples = []
    for label, value in form.multi_items():
        pointer = pointer_to("support", label)
        index = counts.get(label, 0)
        counts[label] = index + 1
        raw = await _raw_part(value, modality, f"{pointer}/{index}")
        examples.append(RawExample(label, raw, pointer))
    return examples


async def _raw_part(value: UploadFile | str, modality: Modality, pointer: str) -> RawInput:
    if isinstance(value, UploadFile):
        return RawInput("bytes", await value.read(), pointer, value.content_type)
    if modality == "image":
        return RawInput("base64", value, pointer)
    if modality == "text":
        return RawInput("text", value, pointer)
    return RawInput("bytes", value.encode(), pointer, JSON)
