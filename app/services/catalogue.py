"""What can be asked for: the loaded checkpoints, their codecs, and the learners they serve."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import final

from app import learners
from app.checkpoints.load import Checkpoint
from app.codecs import Codec, codec_for
from app.core.errors import BackboneChanged, Fault, Invalid, InvalidSetting, NotFound, UnknownName
from app.core.limits import Limits
from app.learners._base import EmbeddingLearner, EmbeddingSettings

AUTO = "auto"


class UnknownBackbone(NotFound):
    """`GET /v1/backbones/{name}` for a name that is not loaded."""

    code = "backbone-not-found"
    title = "No such backbone"


class WayNotAllowed(Invalid):
    """More or fewer labels than the checkpoint serves."""

    code = "way-not-allowed"
    title = "Another number of labels than the backbone allows"


@dataclass(frozen=True)
class Candidate:
    """A learner on one backbone with all its settings settled."""

    name: str
    settings: Mapping[str, object]
    learner: EmbeddingLearner[EmbeddingSettings]


@dataclass(frozen=True, eq=False)
class Kit:
    """A checkpoint with the codec that reads its inputs."""

    checkpoint: Checkpoint
    codec: Codec

    @property
    def name(self) -> str:
        """The name it is asked for by."""
        return self.checkpoint.card.name


@final
class Catalogue:
    """Finds backbones and learners by name."""

    def __init__(self, checkpoints: Mapping[str, Checkpoint], limits: Limits) -> None:
        self.checkpoints = dict(checkpoints)
        self._kits = {name: Kit(one, codec_for(one, limits)) for name, one in self.checkpoints.items()}
        self._build = lru_cache(maxsize=512)(self._build_uncached)

    def kit(self, name: str, pointer: str = "/backbone") -> Kit:
        """The checkpoint a request names. Raises `UnknownName`."""
        if name not in self._kits:
            raise UnknownName(kind="backbone", name=name, known=list(self._kits), pointer=pointer)
        return self._kits[name]

    def bound_kit(self, name: str, sha256: str) -> Kit:
        """The checkpoint that a stored version was adapted on. Raises `BackboneChanged` for other weights."""
        kit = self._kits.get(name)
        loaded = kit.checkpoint.sha256 if kit else None
        if kit is None or loaded != sha256:
            raise BackboneChanged(backbone=name, stored_sha256=sha256, loaded_sha256=loaded)
        return kit

    def shown(self, name: str) -> Checkpoint:
        """The checkpoint of a URL. Raises `UnknownBackbone`."""
        if name not in self.checkpoints:
            raise UnknownBackbone(f"There is no backbone {name!r}.")
        return self.checkpoints[name]

    def candidates(self, kit: Kit, learner: str, settings: Mapping[str, object]) -> list[Candidate]:
        """The learners to fit: the one that is named, or for `auto` all that the checkpoint serves."""
        served = kit.checkpoint.card.learners
        if learner == AUTO:
            if settings:
                raise InvalidSetting(
                    "learner_settings belong to a named learner; leave them out with learner 'auto'.",
                    pointer="/learner_settings",
                )
            return [self.candidate(kit, name, {}) for name in served]
        if learner not in served:
            known = [AUTO, *served]
            raise UnknownName(kind=f"learner for {kit.name}", name=learner, known=known, pointer="/learner")
        return [self.candidate(kit, learner, settings)]

    def candidate(self, kit: Kit, learner: str, settings: Mapping[str, object]) -> Candidate:
        """One learner: the checkpoint's defaults, overridden by the request's settings."""
        defaults = kit.checkpoint.card.learners.get(learner, {})
        try:
            parsed = learners.parse_settings(learner, {**defaults, **settings})
        except InvalidSetting as error:
            faults = [Fault("/learner_settings" + one.pointer, one.detail, one.code) for one in error.faults]
            raise InvalidSetting(error.detail, faults=faults) from error
        settled = asdict(parsed)
        return Candidate(learner, settled, self.learner(kit, learner, settled))

    def learner(self, kit: Kit, name: str, settled: Mapping[str, object]) -> EmbeddingLearner[EmbeddingSettings]:
        """A learner with settings that `candidate` settled before, as a stored version holds them."""
        return self._build(kit.name, name, json.dumps(dict(settled), sort_keys=True))

    def check_way(self, kit: Kit, way: int, pointer: str = "/support") -> None:
        """Refuse a number of labels that the checkpoint does not serve. Raises `WayNotAllowed`."""
        allowed = kit.checkpoint.card.way
        if not allowed.min <= way <= allowed.max:
            raise WayNotAllowed(
                f"{kit.name} serves {allowed.min} to {allowed.max} labels; {way} given.", pointer=pointer
            )

    def _build_uncached(self, backbone: str, learner: str, settings: str) -> EmbeddingLearner[EmbeddingSettings]:
        built = learners.build(learner, self.checkpoints[backbone].backbone, json.loads(settings))
        if not isinstance(built, EmbeddingLearner):
            raise TypeError(f"{learner} does not work on embeddings")
        return built.eval()
