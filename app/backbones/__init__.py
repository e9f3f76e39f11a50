"""Backbones, found by file name: `app/backbones/<architecture>.py` holds one network and its `Settings`,
a frozen dataclass of plain values with defaults.

Files that start with an underscore are no architectures. A new network is one new file.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from app.backbones._base import Backbone
from app.core.errors import InvalidSetting, UnknownName


def architectures() -> tuple[str, ...]:
    """The names of all architectures, sorted."""
    return tuple(sorted(found.name for found in pkgutil.iter_modules(__path__) if not found.name.startswith("_")))


def build(architecture: str, settings: Mapping[str, object]) -> Backbone:
    """Make an untrained backbone; `settings` are fields of the `Settings` in its file.

    Raises: `UnknownName` for an architecture that has no file, `InvalidSetting` for a setting that is
    unknown or has a value of another type.
    """
    if architecture not in architectures():
        raise UnknownName(kind="architecture", name=architecture, known=architectures(), pointer="/architecture")
    module = importlib.import_module(f"{__name__}.{architecture}")
    network: Any = _network(module)
    backbone: Backbone = network(_settings(module.Settings, settings, architecture))
    return backbone


def _network(module: object) -> type[Backbone]:
    """The one backbone that a file defines."""
    found = [
        kind
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, Backbone) and kind.__module__ == getattr(module, "__name__", None)
    ]
    if len(found) != 1:
        raise TypeError(f"{module} must define exactly one Backbone; it defines {len(found)}")
    return found[0]


def _settings(kind: Any, values: Mapping[str, object], architecture: str) -> Any:
    defaults = {field.name: getattr(kind(), field.name) for field in fields(kind)}
    for name, value in values.items():
        pointer = f"/architecture_settings/{name}"
        if name not in defaults:
            raise InvalidSetting(f"The architecture {architecture!r} has no setting {name!r}.", pointer=pointer)
        wanted = type(defaults[name])
        if not (_is_widths(value) if wanted is tuple else type(value) is wanted):
            kinds = "list of whole numbers" if wanted is tuple else wanted.__name__
            raise InvalidSetting(
                f"The setting {name!r} of {architecture!r} must be a {kinds}, not {value!r}.", pointer=pointer
            )
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def _is_widths(value: object) -> bool:
    return isinstance(value, list | tuple) and all(type(one) is int for one in value)
