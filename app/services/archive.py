"""The form of an export: tensors, and one JSON document in the file's metadata."""

import json
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, ValidationError
from safetensors.torch import load
from torch import Tensor

from app.core.errors import Fault, Invalid

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
MediaType = Annotated[str, StringConstraints(pattern=r"^[!-~]{1,50}/[!-~]{1,50}(; ?[!-~]{1,60})*$")]
KEY = "imprint"


class NotAnExport(Invalid):
    """A safetensors file without our document, or with another form of it."""

    code = "not-an-export"
    title = "Not an export of a task"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ArchivedExample(_Strict):
    """One example; its embedding is its row of `features`."""

    label: str
    content_sha256: Sha256
    media_type: MediaType
    size_bytes: int = Field(ge=0, le=2**53)
    truncated: bool


class ArchivedVersion(_Strict):
    """What the adaptation settled."""

    learner: str
    learner_settings: dict[str, JsonValue]
    labels: list[str]
    dim: int = Field(ge=1)
    selection: dict[str, JsonValue] | None
    held_out: dict[str, JsonValue] | None
    warnings: list[JsonValue]
    timing: dict[str, JsonValue]


class Archive(_Strict):
    """The whole document."""

    format: Literal[1] = 1
    backbone: str
    backbone_sha256: Sha256
    learner_requested: str
    learner_settings_requested: dict[str, JsonValue]
    store_inputs: bool
    version: ArchivedVersion
    examples: list[ArchivedExample] = Field(min_length=2)


def _refuse(constant: str) -> None:
    raise NotAnExport(f"The file's metadata holds {constant}, which is no JSON number.")


def read_archive(data: bytes) -> tuple[dict[str, Tensor], Archive]:
    """The tensors and the document of an export.

    Raises: `SafetensorError` where the bytes are no safetensors file, `NotAnExport` for another document.
    """
    tensors = load(data)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    document = header.get("__metadata__", {}).get(KEY)
    if document is None:
        raise NotAnExport(
            "The safetensors file does not come from GET /v1/tasks/{id}/export: it has no metadata of it."
        )
    try:
        json.loads(document, parse_constant=_refuse)
        return tensors, Archive.model_validate_json(document)
    except RecursionError as error:
        raise NotAnExport("The file's metadata is nested too deeply.") from error
    except json.JSONDecodeError as error:
        raise NotAnExport(f"The file's metadata is not JSON: {error}.") from error
    except ValidationError as error:
        faults = [
            Fault("/" + "/".join(str(part) for part in one["loc"]), one["msg"], NotAnExport.code)
            for one in error.errors(include_url=False, include_input=False)
        ]
        raise NotAnExport("The file's metadata is not that of an export.", faults=faults[:20]) from error
    except ValueError as error:
        raise NotAnExport("The file's metadata holds a number that is too long.") from error
