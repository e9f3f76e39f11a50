"""The card of a checkpoint: what `models/<name>/card.json` says, checked on reading.

A card is data that people write by hand, so each fault is named with the key it lies under. Unknown
keys are refused: a misspelt one would otherwise be dropped in silence.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal, TypeAlias, get_args

from app.backbones._base import Modality
from app.core.errors import Unavailable

CARD_FILE: Final = "card.json"
Dtype = Literal["float32", "float16", "bfloat16"]

_NAME = re.compile(r"[a-z0-9]+(?:[.-][a-z0-9]+)*")
_OPTIONAL: Final = frozenset({"tokenizer", "adapter", "adapter_sha256"})
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SCORE_KEYS: Final = frozenset(
    {
        "dataset",
        "way",
        "shot",
        "learner",
        "accuracy",
        "interval_95",
        "episodes",
        "seed",
        "transductive",
        "external_pretraining",
    }
)


class BadCard(Unavailable):
    """A card that cannot be used; the detail names the checkpoint's folder and the key."""

    code = "bad-card"
    title = "The checkpoint's card is not valid"


@dataclass(frozen=True)
class OwnWeights:
    """Weights that lie beside the card."""

    file: str
    tokenizer: str | None = None


@dataclass(frozen=True)
class PackagedWeights:
    """Weights that an installed Python package carries; paths are relative to the package.

    `adapter` is a file beside the card with those few of the weights that meta-training changed, which take the
    place of the package's; `adapter_sha256` is that of the file, in hex.
    """

    package: str
    path: str
    tokenizer: str | None = None
    adapter: str | None = None
    adapter_sha256: str | None = None


Weights: TypeAlias = OwnWeights | PackagedWeights


@dataclass(frozen=True)
class LearnerWeights:
    """What meta-training learned of a learner beyond the backbone: a safetensors file beside the card."""

    file: str
    sha256: str


@dataclass(frozen=True)
class Way:
    """How many labels a task on this checkpoint may have."""

    min: int = 2
    max: int = 10_000


@dataclass(frozen=True, kw_only=True)
class Card:
    """Everything that is known of a checkpoint.

    `dim` is the embedding's size, `None` where it is the input's. `sha256` is that of the weights
    file, `None` without weights. `dtype` is how the weights are stored: they compute in float32.
    `learners` maps the names of the learners it serves to their default settings, in the order of
    preference for when the support set cannot judge between them. `learner_weights` names the files of those learners
    that have weights of their own; several may name the same file. `shot` hints at how many examples a
    label it was trained for (`{"min": 1, "max": 20}`). `scores` rows hold `accuracy` and
    `interval_95` (half a width) as fractions of 1; `external_pretraining` names the data that
    came in through weights of others, or is null.
    """

    name: str
    description: str
    architecture: str
    architecture_settings: Mapping[str, object] = field(default_factory=dict)
    modality: Modality
    dim: int | None
    preprocessing: Mapping[str, object] = field(default_factory=dict)
    weights: Weights | None
    sha256: str | None
    dtype: Dtype = "float32"
    learners: Mapping[str, Mapping[str, object]]
    learner_weights: Mapping[str, LearnerWeights] = field(default_factory=dict)
    way: Way = field(default_factory=Way)
    shot: Mapping[str, int] | None = None
    licence: str
    provenance: str
    recipe: Mapping[str, object] = field(default_factory=dict)
    scores: Sequence[Mapping[str, object]] = ()

    def __post_init__(self) -> None:
        _check(bool(_NAME.fullmatch(self.name)), self.name, "name", "lower-case words joined by hyphens")
        _check(self.architecture.isidentifier(), self.name, "architecture", "a module's name in app/backbones")
        _check(self.dim is None or self.dim > 0, self.name, "dim", "null or a positive number")
        _check(bool(self.learners), self.name, "learners", "an object with at least one learner")
        _check(2 <= self.way.min <= self.way.max, self.name, "way", "2 <= min <= max")
        if self.weights is None:
            _check(self.sha256 is None, self.name, "sha256", "null, as there are no weights")
        else:
            known = self.sha256 is not None and _SHA256.fullmatch(self.sha256)
            _check(bool(known), self.name, "sha256", "the weights file's SHA-256, 64 hex digits")
            for key, path in asdict(self.weights).items():
                if key == "adapter_sha256":
                    continue
                inside = path is None or _is_inside(path)
                _check(inside, self.name, f"weights/{key}", "a relative path that stays inside its folder")
            plain = isinstance(self.weights, OwnWeights) or self.weights.package.isidentifier()
            _check(plain, self.name, "weights/package", "the name of a package, without dots")
            if isinstance(self.weights, PackagedWeights):
                digest = self.weights.adapter_sha256
                fits = (digest is None) == (self.weights.adapter is None)
                fits = fits and (digest is None or bool(_SHA256.fullmatch(digest)))
                _check(fits, self.name, "weights/adapter_sha256", "that of the adapter, 64 hex digits")
        for learner, own in self.learner_weights.items():
            key = f"learner_weights/{learner}"
            _check(learner in self.learners, self.name, key, "a learner that the card serves")
            _check(_is_inside(own.file), self.name, f"{key}/file", "a relative path that stays inside its folder")
            _check(bool(_SHA256.fullmatch(own.sha256)), self.name, f"{key}/sha256", "that of the file, 64 hex digits")
        for number, score in enumerate(self.scores):
            _check_score(score, self.name, f"scores/{number}")


def read_card(path: Path) -> Card:
    """Read and check a `card.json`.

    Raises: `BadCard` where it is no JSON object, or a key is missing, unknown, or has a value that
    cannot be; `OSError` where there is no such file.
    """
    name = path.parent.name
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadCard(f"The card of {name!r} is not JSON: {error}.") from error
    card = card_from_dict(raw, name=name)
    _check(card.name == name, name, "name", f"the name of its folder, {name!r}")
    return card


def card_from_dict(raw: object, *, name: str) -> Card:
    """Build a card from parsed JSON; `name` is what its faults call it. Raises `BadCard`."""
    values = _object(raw, name, "", Card)
    for key, kinds in _KINDS.items():
        right = isinstance(values.get(key), kinds) and not isinstance(values.get(key), bool)
        _check(key not in values or right, name, key, _words(kinds))
    for key, choices in (("modality", get_args(Modality)), ("dtype", get_args(Dtype))):
        _check(values.get(key, choices[0]) in choices, name, key, f"one of {choices}")
    for learner, settings in values["learners"].items():
        _check(isinstance(settings, dict), name, f"learners/{learner}", "an object of settings")
    for key in ("way", "shot"):
        bounds = (values.get(key) or {}).values()
        _check(all(type(bound) is int for bound in bounds), name, key, "an object of whole numbers")
    if values["weights"] is not None:
        kind = PackagedWeights if "package" in values["weights"] else OwnWeights
        values["weights"] = kind(**_strings(values["weights"], name, "weights", kind))
    values["learner_weights"] = {
        learner: LearnerWeights(**_strings(own, name, f"learner_weights/{learner}", LearnerWeights))
        for learner, own in values.get("learner_weights", {}).items()
    }
    if "way" in values:
        values["way"] = Way(**_object(values["way"], name, "way", Way))
    values["scores"] = tuple(values.get("scores", ()))
    return Card(**values)


def card_to_dict(card: Card) -> dict[str, object]:
    """The card as plain JSON values, keys in the order of the class; `read_card` reads it back."""
    values = asdict(card)
    values["scores"] = [dict(score) for score in card.scores]
    if card.shot is None:
        del values["shot"]
    if not card.learner_weights:
        del values["learner_weights"]
    if isinstance(values["weights"], dict):
        values["weights"] = {
            key: one for key, one in values["weights"].items() if one is not None or key not in _OPTIONAL
        }
    return values


def card_to_json(card: Card) -> str:
    """The text of `card.json`: the same card gives the same bytes."""
    return json.dumps(card_to_dict(card), indent=2, ensure_ascii=False) + "\n"


_KINDS: Final[Mapping[str, tuple[type, ...]]] = {
    **dict.fromkeys(("name", "description", "architecture", "modality", "dtype", "licence", "provenance"), (str,)),
    **dict.fromkeys(
        ("architecture_settings", "preprocessing", "learners", "learner_weights", "recipe", "way"), (dict,)
    ),
    **dict.fromkeys(("weights", "shot"), (dict, type(None))),
    "dim": (int, type(None)),
    "sha256": (str, type(None)),
    "scores": (list,),
}
_JSON_WORDS: Final = {str: "a string", dict: "an object", list: "a list", int: "a whole number", type(None): "null"}


def _words(kinds: Sequence[type]) -> str:
    return " or ".join(_JSON_WORDS[kind] for kind in kinds)


def _check(fine: bool, name: str, key: str, wanted: str) -> None:
    if not fine:
        raise BadCard(f"The card of {name!r} is wrong at {key or 'the top'!r}: it must be {wanted}.")


def _object(raw: object, name: str, key: str, kind: type[Card | Weights | LearnerWeights | Way]) -> dict[str, Any]:
    """A copy of `raw`, which must have every required key of the dataclass `kind` and no unknown one."""
    if not isinstance(raw, dict):
        raise BadCard(f"The card of {name!r} is wrong at {key or 'the top'!r}: it must be an object.")
    known = {part.name for part in fields(kind)}
    required = {part.name for part in fields(kind) if part.default is MISSING and part.default_factory is MISSING}
    _check(set(raw) <= known, name, key, f"without the unknown keys {sorted(set(raw) - known)}")
    _check(required <= set(raw), name, key, f"with the missing keys {sorted(required - set(raw))}")
    return dict(raw)


def _strings(raw: object, name: str, key: str, kind: type[Weights | LearnerWeights]) -> dict[str, Any]:
    """`_object` where all values are strings, or what may be left out is."""
    parts = _object(raw, name, key, kind)
    for part, value in parts.items():
        fits = isinstance(value, str) or (value is None and part in _OPTIONAL)
        _check(fits, name, f"{key}/{part}", "a string")
    return parts


def _is_inside(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return bool(parts) and not path.startswith("/") and ".." not in parts and "\\" not in path and ":" not in path


def _check_score(score: Mapping[str, object], name: str, key: str) -> None:
    _check(
        isinstance(score, Mapping) and set(score) == _SCORE_KEYS,
        name,
        key,
        f"an object with exactly the keys {sorted(_SCORE_KEYS)}",
    )
    for part in ("accuracy", "interval_95"):
        value = score[part]
        fits = isinstance(value, float | int) and not isinstance(value, bool) and 0 <= value <= 1
        _check(fits, name, f"{key}/{part}", "a fraction between 0 and 1")
