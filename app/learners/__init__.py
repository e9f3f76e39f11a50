"""Few-shot algorithms, one file each, found by file name (files that start with `_` are none)."""

import pkgutil
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any

from app.backbones._base import Backbone
from app.core.errors import UnknownName
from app.learners._base import Learner, LearnerSettings
from app.learners._settings import read_settings, schema_of


@cache
def learner_names() -> tuple[str, ...]:
    """Names of all learners, in alphabetical order: the file names without their ending."""
    return tuple(sorted(one.name for one in pkgutil.iter_modules(__path__) if not one.name.startswith("_")))


@cache
def learner_class(name: str) -> type[Learner[Any]]:
    """The learner that the file `name` defines.

    Raises: `UnknownName` where there is no such file; `TypeError` where it does not define exactly one learner.
    """
    if name not in learner_names():
        raise UnknownName(kind="learner", name=name, known=learner_names(), pointer="/learner")
    module = import_module(f"{__name__}.{name}")
    own = [one for one in vars(module).values() if isinstance(one, type) and one.__module__ == module.__name__]
    learners = [one for one in own if issubclass(one, Learner)]
    if len(learners) != 1:
        raise TypeError(f"{module.__name__} must define one learner; it defines {len(learners)}")
    return learners[0]


def parse_settings(name: str, mapping: Mapping[str, object]) -> LearnerSettings:
    """Settings of the learner `name`; raises `InvalidSetting` with a pointer per field at fault, and `UnknownName`."""
    return read_settings(learner_class(name).Settings, mapping)


def settings_schema(name: str) -> dict[str, object]:
    """JSON schema of the settings of the learner `name`; raises `UnknownName`."""
    return schema_of(learner_class(name).Settings)


def build(name: str, backbone: Backbone, settings: Mapping[str, object]) -> Learner[Any]:
    """A learner over `backbone`, in the mode the backbone is in; raises what `parse_settings` raises."""
    return learner_class(name)(backbone, parse_settings(name, settings)).train(backbone.training)
