"""A recipe: everything that decides what a training run yields, read from TOML."""

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from app.core.errors import Invalid

T = TypeVar("T")


class BadRecipe(Invalid):
    """A recipe with an unknown or missing key, or a value that cannot be."""

    code: ClassVar[str] = "bad-recipe"
    title: ClassVar[str] = "The recipe is not valid"


@dataclass(frozen=True)
class Data:
    """Which data set (a module in `app/training/datasets`), and which of its splits serve what."""

    name: str
    train: str
    validation: str
    test: str


@dataclass(frozen=True)
class Named:
    """A backbone or a learner: its name, and its settings."""

    name: str
    settings: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Episodes:
    """What the training episodes look like.

    Of `way` classes, `images` each are embedded in one pass and then split `splits` times, each time
    with another `shot` of them as the support and the rest as the queries.
    """

    way: int
    images: int
    shot: int = 1
    splits: int = 1

    def __post_init__(self) -> None:
        _check(self.way >= 2, "episodes", "way must be 2 or more")
        _check(1 <= self.shot < self.images, "episodes", "shot must lie between 1 and images - 1")
        _check(1 <= self.splits <= self.images, "episodes", "splits must lie between 1 and images")


@dataclass(frozen=True)
class Augmentation:
    """How far each glyph is changed at random, anew whenever it is drawn; 0 is not at all."""

    rotation_degrees: float = 0.0
    shear: float = 0.0
    scale: float = 0.0
    shift_pixels: float = 0.0
    thick_share: float = 0.0
    """The share of glyphs whose strokes are made thicker by up to a pixel on each side."""
    mirror_share: float = 0.0
    """The chance that a class is mirrored in an episode, which makes another class of it."""


@dataclass(frozen=True)
class Optimiser:
    """Adam in cycles: each warms up linearly, then falls along half a cosine to `final_share` of its peak.

    `cycles` are their lengths in steps. The first peaks at `learning_rate`, each later one at
    `cycle_decay` of the one before (Loshchilov and Hutter, ICLR 2017, arXiv:1608.03983, eq. 5).
    """

    cycles: tuple[int, ...]
    learning_rate: float
    cycle_decay: float = 1.0
    warmup_steps: int = 0
    final_share: float = 0.0

    def __post_init__(self) -> None:
        _check(bool(self.cycles) and min(self.cycles) >= 1, "optimiser", "cycles must be lengths of 1 or more")
        _check(self.learning_rate > 0, "optimiser", "learning_rate must be above 0")

    @property
    def steps(self) -> int:
        """The length of the whole run."""
        return sum(self.cycles)


@dataclass(frozen=True)
class Judging:
    """Episodes that judge: `episodes` of `way` classes, with `shot` supports and `queries` a class."""

    way: int
    shot: int
    episodes: int = 600
    queries: int = 5
    seed: int = 1


@dataclass(frozen=True)
class Validation:
    """When and on what the best weights are chosen."""

    every_steps: int
    judging: Judging


@dataclass(frozen=True)
class Publication:
    """What the checkpoint's card says beyond what the run itself knows."""

    description: str
    licence: str
    provenance: str
    preprocessing: Mapping[str, object]
    learners: Mapping[str, Mapping[str, object]]
    shot: Mapping[str, int] | None = None


@dataclass(frozen=True)
class Recipe:
    """One training run. Same recipe, data and machine: same weights."""

    name: str
    seed: int
    data: Data
    backbone: Named
    learner: Named
    episodes: Episodes
    optimiser: Optimiser
    validation: Validation
    tests: tuple[Judging, ...]
    card: Publication
    augmentation: Augmentation = field(default_factory=Augmentation)


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe. Raises: `BadRecipe`; `OSError` where there is no such file."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadRecipe(f"The recipe {path.name!r} is not TOML: {error}.") from error
    return recipe_from_dict(raw)


def recipe_from_dict(raw: Mapping[str, object]) -> Recipe:
    """Build a recipe from parsed TOML. Raises: `BadRecipe` that names the key at fault."""
    return _section(Recipe, raw, "")


def _section(kind: type[T], raw: object, where: str) -> T:
    """One dataclass from one table, strictly: no unknown, missing or wrongly typed key."""
    values = _table(raw, where)
    known: dict[str, Any] = {part.name: part for part in fields(cast(Any, kind))}
    unknown = sorted(set(values) - set(known))
    _check(not unknown, where, f"unknown keys {unknown}; known are {sorted(known)}")
    required = {name for name, part in known.items() if part.default is MISSING and part.default_factory is MISSING}
    _check(required <= set(values), where, f"missing keys {sorted(required - set(values))}")
    hints = get_type_hints(kind)
    return kind(**{name: _value(hints[name], value, f"{where}.{name}".lstrip(".")) for name, value in values.items()})


def _value(hint: Any, raw: object, where: str) -> object:
    """One value, checked against the annotation of its field."""
    if is_dataclass(hint):
        return _section(cast(type[object], hint), raw, where)
    if get_origin(hint) is tuple:
        _check(isinstance(raw, list), where, "it must be a list")
        return tuple(_value(get_args(hint)[0], one, f"{where}[{i}]") for i, one in enumerate(cast(list[object], raw)))
    if get_origin(hint) in {Mapping, Union, UnionType}:  # an optional one is a table too: TOML has no null
        return _table(raw, where)
    if hint is float and type(raw) is int:
        return float(raw)
    _check(type(raw) is hint, where, f"it must be of the type {hint.__name__}")
    return raw


def _table(raw: object, where: str) -> Mapping[str, object]:
    _check(isinstance(raw, Mapping), where, "it must be a table")
    return cast(Mapping[str, object], raw)


def _check(fine: bool, where: str, wanted: str) -> None:
    if not fine:
        raise BadRecipe(f"The recipe is wrong at {where or 'the top'!r}: {wanted}.")
