"""Inputs and support sets as JSON: how they are written, and how they become raw inputs."""

from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from app.api.errors import TAG
from app.backbones._base import Modality
from app.codecs import RawExample, RawInput
from app.codecs.pointer import pointer as pointer_to
from app.core.errors import EmptyClass

Vector: TypeAlias = list[float]
"""NaN and infinity pass here: the codec names the element at fault."""


class Strict(BaseModel):
    """Unknown fields are refused, and nothing is guessed: "3" is no number."""

    model_config = ConfigDict(extra="forbid", strict=True)


class InputIn(Strict):
    """One input: exactly one of the three, by the backbone's modality."""

    image_b64: str | None = Field(None, description="A JPEG, PNG or WebP file in base64; a data: URI is fine.")
    text: str | None = Field(None, description="A text.")
    vector: Vector | None = Field(None, description="Finite numbers; all vectors of a task have one size.")

    @model_validator(mode="after")
    def _exactly_one(self) -> "InputIn":
        given = [name for name in ("image_b64", "text", "vector") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of image_b64, text, vector")
        return self

    def raw(self, pointer: str) -> RawInput:
        """As the codecs take it."""
        if self.image_b64 is not None:
            return RawInput("base64", self.image_b64, pointer + "/image_b64")
        if self.text is not None:
            return RawInput("text", self.text, pointer + "/text")
        return RawInput("vector", self.vector or [], pointer + "/vector")


class ExampleIn(InputIn):
    """One labelled example."""

    label: str


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return TAG + "string"
    return TAG + ("vector" if isinstance(value, list) else "input")


def _form(value: Any) -> str | None:
    if isinstance(value, list):
        return TAG + "list"
    return TAG + "map" if isinstance(value, dict) else None


AnyInput: TypeAlias = Annotated[
    Annotated[str, Tag(TAG + "string")]
    | Annotated[Vector, Tag(TAG + "vector")]
    | Annotated[InputIn, Tag(TAG + "input")],
    Discriminator(_kind),
]
"""Short forms: a string is a text, or base64 where the backbone reads images; a list is a vector."""

SupportIn: TypeAlias = Annotated[
    Annotated[list[ExampleIn], Tag(TAG + "list")] | Annotated[dict[str, list[AnyInput]], Tag(TAG + "map")],
    Discriminator(
        _form,
        custom_error_type="support_form",
        custom_error_message="give a list of labelled examples, or a map from label to inputs",
    ),
]


def raw_input(value: str | list[float] | InputIn, modality: Modality, pointer: str) -> RawInput:
    """One input in any of its JSON forms."""
    if isinstance(value, str):
        return RawInput("base64" if modality == "image" else "text", value, pointer)
    if isinstance(value, list):
        return RawInput("vector", value, pointer)
    return value.raw(pointer)


def raw_support(support: list[ExampleIn] | dict[str, list[Any]], modality: Modality) -> list[RawExample]:
    """The examples of a support set in either JSON form. Raises `EmptyClass` for a label with none."""
    if isinstance(support, list):
        return [
            RawExample(one.label, one.raw(f"/support/{index}"), f"/support/{index}/label")
            for index, one in enumerate(support)
        ]
    examples = []
    for label, inputs in support.items():
        pointer = pointer_to("support", label)
        if not inputs:
            raise EmptyClass(label=label, pointer=pointer)
        examples += [
            RawExample(label, raw_input(one, modality, f"{pointer}/{index}"), pointer)
            for index, one in enumerate(inputs)
        ]
    return examples
