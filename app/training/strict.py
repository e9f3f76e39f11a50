"""Dataclasses from parsed TOML, strictly: every unknown, missing or wrongly typed key is refused by its name."""

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from app.training.errors import BadRecipe

T = TypeVar("T")


def section(kind: type[T], raw: object, where: str = "") -> T:
    """One dataclass from one table. `where` is the table's place in the recipe, for what is said of faults.

    A field is a bool, an int, a float (whole numbers will do), a str, a `Literal` of strings, a dataclass, a tuple of
    one of these, or a mapping; `X | None` may be left out. Raises: `BadRecipe` that names the key.
    """
    values = _table(raw, where)
    known: dict[str, Any] = {part.name: part for part in fields(cast(Any, kind))}
    unknown = sorted(set(values) - set(known))
    check(not unknown, where, f"unknown keys {unknown}; known are {sorted(known)}")
    required = {name for name, part in known.items() if part.default is MISSING and part.default_factory is MISSING}
    check(required <= set(values), where, f"missing keys {sorted(required - set(values))}")
    hints = get_type_hints(kind)
    return kind(**{name: _value(hints[name], value, f"{where}.{name}".lstrip(".")) for name, value in values.items()})


def check(fine: bool, where: str, wanted: str) -> None:
    """Raises `BadRecipe` where something is not fine."""
    if not fine:
        raise BadRecipe(f"The recipe is wrong at {where or 'the top'!r}: {wanted}.")


def said(instance: Any) -> dict[str, Any]:
    """The fields of a dataclass that differ from their defaults, at every depth: what a recipe had to say."""
    found = {}
    for part in fields(instance):
        value = getattr(instance, part.name)
        usual = part.default_factory() if part.default_factory is not MISSING else part.default
        if value != usual:
            found[part.name] = _plain(value)
    return found


def _plain(value: object) -> object:
    if is_dataclass(value):
        return said(value)
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


def _value(hint: Any, raw: object, where: str) -> object:
    """One value, checked against the annotation of its field."""
    kind = get_origin(hint)
    if kind in {Union, UnionType}:  # an optional one: TOML has no null, so it is there or left out
        (hint,) = (one for one in get_args(hint) if one is not NoneType)
        return _value(hint, raw, where)
    if is_dataclass(hint):
        return section(cast(type[object], hint), raw, where)
    if kind is tuple:
        check(isinstance(raw, list), where, "it must be a list")
        return tuple(_value(get_args(hint)[0], one, f"{where}[{i}]") for i, one in enumerate(cast(list[object], raw)))
    if kind is Mapping:
        inner, table = get_args(hint)[1], _table(raw, where)
        if inner is not object:
            table = {name: _value(inner, one, f"{where}.{name}") for name, one in table.items()}
        return table
    if hint is float and type(raw) is int:
        return float(raw)
    if kind is Literal:
        check(raw in get_args(hint), where, f"it must be one of {list(get_args(hint))}")
    else:
        check(type(raw) is hint, where, f"it must be of the type {hint.__name__}")
    return raw


def _table(raw: object, where: str) -> Mapping[str, object]:
    check(isinstance(raw, Mapping), where, "it must be a table")
    return cast(Mapping[str, object], raw)
