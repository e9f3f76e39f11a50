"""Reads a learner's settings from a mapping and describes them as a JSON schema.

A field of a frozen `Settings` dataclass is a float, an int, a bool or a str; its metadata may hold
`description`, `minimum`, `above` (an open lower end), `maximum` and `choices`.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, fields
from typing import Any, TypeVar, get_type_hints

from app.core.errors import Fault, InvalidSetting

_KINDS: dict[type, str] = {bool: "boolean", int: "integer", float: "number", str: "string"}


@dataclass(frozen=True)
class LearnerSettings:
    """Base of each learner's frozen `Settings`: it feeds the recipe, the card and the HTTP schema.

    Raises: `InvalidSetting` for a value out of range, with a pointer to each field (`/temperature`).
    """

    def __post_init__(self) -> None:
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        _refuse(list(_faults(type(self), values)))


S = TypeVar("S", bound=LearnerSettings)


def read_settings(cls: type[S], mapping: Mapping[str, object]) -> S:
    """Make settings of `cls`; what is not named keeps its default.

    Raises: `InvalidSetting` that names every unknown, wrongly typed or out-of-range field.
    """
    _refuse(list(_faults(cls, mapping)))
    hints = get_type_hints(cls)
    wide: dict[str, Any] = {k: float(str(v)) if hints[k] is float else v for k, v in mapping.items()}
    return cls(**wide)


def schema_of(cls: type[LearnerSettings]) -> dict[str, object]:
    """JSON schema (2020-12) of the settings, with defaults, ranges and descriptions."""
    hints = get_type_hints(cls)
    properties: dict[str, object] = {}
    for one in fields(cls):
        about = one.metadata
        entry = {"type": _KINDS[hints[one.name]], "default": one.default, "description": about["description"]}
        names = {"minimum": "minimum", "above": "exclusiveMinimum", "maximum": "maximum"}
        entry |= {name: about[key] for key, name in names.items() if key in about}
        if "choices" in about:
            entry["enum"] = list(about["choices"])
        properties[one.name] = entry
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _refuse(faults: list[Fault]) -> None:
    if faults:
        raise InvalidSetting(" ".join(one.detail for one in faults), faults=faults)


def _faults(cls: type[LearnerSettings], mapping: Mapping[str, object]) -> Iterator[Fault]:
    hints = get_type_hints(cls)
    known = {one.name: one for one in fields(cls)}
    for name, value in mapping.items():
        if name not in known:
            detail = f"There is no setting {name!r}; the settings are: {', '.join(known) or 'none'}."
        else:
            detail = _fault(hints[name], known[name], value)
        if detail:
            pointer = "/" + name.replace("~", "~0").replace("/", "~1")
            yield Fault(pointer, detail, InvalidSetting.code)


def _fault(kind: type, about: "Field[Any]", value: object) -> str:
    fits = type(value) in {int, float} if kind is float else type(value) is kind
    if not fits:
        return f"The setting {about.name!r} must be of type {_KINDS[kind]}."
    if isinstance(value, (int, float)) and kind is not bool:
        # A JSON integer may have more digits than a float can hold.
        if abs(value) > 1e300 or not math.isfinite(value):
            return f"The setting {about.name!r} must be a finite number."
        return _range_fault(about, value)
    choices = about.metadata.get("choices")
    if choices is not None and value not in choices:
        return f"The setting {about.name!r} must be one of: {', '.join(map(str, choices))}."
    return ""


def _range_fault(about: "Field[Any]", value: float | int) -> str:
    minimum, above, maximum = (about.metadata.get(key) for key in ("minimum", "above", "maximum"))
    if minimum is not None and value < minimum:
        return f"The setting {about.name!r} must be at least {minimum:g}."
    if above is not None and value <= above:
        return f"The setting {about.name!r} must be above {above:g}."
    if maximum is not None and value > maximum:
        return f"The setting {about.name!r} must be at most {maximum:g}."
    return ""
