"""What can be asked for: the loaded checkpoints, their codecs, and the learners they serve."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final, final

import torch

from app import learners
from app.checkpoints.card import BadCard
from app.checkpoints.load import Checkpoint
from app.codecs import Codec, codec_for
from app.core.errors import BackboneChanged, Fault, ImprintError, Invalid, InvalidSetting, NotFound, UnknownName
from app.core.limits import Limits
from app.engine.executors.choose import Choice
from app.learners._base import EmbeddingLearner
from app.registry.records import TaskRecord
from app.services.builder import AnyLearner, LacksOwnWeights, LearnerBuilder

AUTO = "auto"


class UnknownBackbone(NotFound):
    """`GET /v1/backbones/{name}` for a name that is not loaded."""

    code = "backbone-not-found"
    title = "No such backbone"


class WayNotAllowed(Invalid):
    """More or fewer labels than the checkpoint, or the learner with its fixed head, serves."""

    code = "way-not-allowed"
    title = "Another number of labels than the backbone allows"


MOST_BOUND: Final = 20_000
"""Versions whose checkpoint and learner are remembered."""

MOST_ALIKE: Final = 256
"""Learners that are remembered by what they are made of."""


@dataclass(frozen=True)
class Candidate:
    """A learner on one backbone with all its settings settled; `sha256` is what its versions are bound to."""

    name: str
    settings: Mapping[str, object]
    learner: AnyLearner
    sha256: str

    @property
    def adapts_weights(self) -> bool:
        """Whether it works on the inputs themselves, not on the backbone's embeddings of them."""
        return not isinstance(self.learner, EmbeddingLearner)


@dataclass(frozen=True, eq=False)
class Kit:
    """A checkpoint with the codec that reads its inputs."""

    checkpoint: Checkpoint
    codec: Codec

    @property
    def name(self) -> str:
        """The name it is asked for by."""
        return self.checkpoint.card.name

    def way(self, learner: AnyLearner) -> tuple[int, int]:
        """The least and the most labels that the checkpoint serves with this learner."""
        allowed = self.checkpoint.card.way
        least, most = learner.ways or (allowed.min, allowed.max)
        return max(least, allowed.min), min(most, allowed.max)


@final
class Catalogue:
    """Finds backbones and learners by name. Every learner of every card was built once when it is made.

    Raises: `BadCard` for a learner that its checkpoint's architecture, settings and weights do not make.
    """

    def __init__(
        self,
        checkpoints: Mapping[str, Checkpoint],
        limits: Limits,
        device: torch.device | None = None,
        executors: Mapping[str, Choice] | None = None,
    ) -> None:
        self.checkpoints = dict(checkpoints)
        self.executors = dict(executors or {})
        self._kits = {name: Kit(one, codec_for(one, limits)) for name, one in self.checkpoints.items()}
        self._bound: dict[tuple[str, int], tuple[Kit, AnyLearner]] = {}
        """Of versions, which never change; nor does what is loaded here."""
        self._alike: dict[str, tuple[Kit, AnyLearner]] = {}
        """By all that these are made of."""
        self._builder = LearnerBuilder(self.checkpoints, device or torch.device("cpu"))
        for kit in self._kits.values():
            for learner in kit.checkpoint.card.learners:
                self._check(kit, learner)

    def kit(self, name: str, pointer: str = "/backbone") -> Kit:
        """The checkpoint a request names. Raises `UnknownName`."""
        if name not in self._kits:
            raise UnknownName(kind="backbone", name=name, known=list(self._kits), pointer=pointer)
        return self._kits[name]

    def bound(self, task: TaskRecord) -> tuple[Kit, AnyLearner]:
        """The checkpoint and the learner that a task's active version was adapted with. Raises as `bound_to`."""
        version = task.version
        found = self.bound_to(task.backbone, version.learner, version.learner_settings, version.backbone_sha256)
        if len(self._alike) >= MOST_ALIKE:
            self._alike.clear()
        self._alike[_makings(task)] = found
        return found

    def remembered(self, task: TaskRecord) -> tuple[Kit, AnyLearner] | None:
        """What `bound` gives, where it gave it before, for this version or for one that was made alike."""
        key = (task.id, task.active_version)
        found = self._bound.get(key)
        if found is None:
            found = self._alike.get(_makings(task))
            if found is not None:
                if len(self._bound) >= MOST_BOUND:
                    self._bound.clear()
                self._bound[key] = found
        return found

    def bound_to(
        self, backbone: str, learner: str, settled: Mapping[str, object], sha256: str
    ) -> tuple[Kit, AnyLearner]:
        """The checkpoint and the learner of this identity.

        Raises: `BackboneChanged` where the weights, the backbone's or the learner's own, are others now; `UnknownName`
        and `InvalidSetting` for a learner or settings that this release does not know.
        """
        kit = self._kits.get(backbone)
        if kit is None:
            raise BackboneChanged(backbone=backbone, stored_sha256=sha256, loaded_sha256=None)
        try:
            built = self._builder.build(backbone, learner, settled)
        except InvalidSetting as error:
            raise _pointed(error) from error
        except LacksOwnWeights as error:
            now = kit.checkpoint.sha256
            raise BackboneChanged(backbone=backbone, stored_sha256=sha256, loaded_sha256=now) from error
        if built.sha256 != sha256:
            raise BackboneChanged(backbone=backbone, stored_sha256=sha256, loaded_sha256=built.sha256)
        return kit, built.learner

    def shown(self, name: str) -> Kit:
        """The checkpoint of a URL. Raises `UnknownBackbone`."""
        if name not in self._kits:
            raise UnknownBackbone(f"There is no backbone {name!r}.")
        return self._kits[name]

    def candidates(self, kit: Kit, learner: str, settings: Mapping[str, object]) -> list[Candidate]:
        """The learners to fit: the one that is named, or for `auto` those to choose among.

        `auto` tries learners on embeddings alone, and none that is for asking by name: to try the others costs too
        much. Where the card has no such learner, `auto` is its first. Raises `UnknownName`, `InvalidSetting`.
        """
        served = kit.checkpoint.card.learners
        if learner == AUTO:
            if settings:
                raise InvalidSetting(
                    "learner_settings belong to a named learner; leave them out with learner 'auto'.",
                    pointer="/learner_settings",
                )
            every = [self.candidate(kit, name, {}) for name in served]
            return [one for one in every if not (one.adapts_weights or one.learner.by_name_only)] or every[:1]
        self.check_served(kit, learner)
        return [self.candidate(kit, learner, settings)]

    def check_served(self, kit: Kit, learner: str) -> None:
        """Refuse a learner that the checkpoint does not serve. Raises `UnknownName`."""
        served = kit.checkpoint.card.learners
        if learner not in served:
            known = [AUTO, *served]
            raise UnknownName(kind=f"learner for {kit.name}", name=learner, known=known, pointer="/learner")

    def candidate(self, kit: Kit, learner: str, settings: Mapping[str, object]) -> Candidate:
        """One learner: the checkpoint's defaults, overridden by the request's settings.

        Raises: `InvalidSetting`, also where the settings ask for weights that the checkpoint does not hold.
        """
        try:
            settled = _settled(kit, learner, settings)
            built = self._builder.build(kit.name, learner, settled)
        except InvalidSetting as error:
            raise _pointed(error) from error
        except LacksOwnWeights as error:
            raise self._lacking(kit, learner, settings, str(error)) from error
        return Candidate(learner, settled, built.learner, built.sha256)

    def fitting(
        self, kit: Kit, candidates: Sequence[Candidate], way: int, pointer: str = "/support"
    ) -> list[Candidate]:
        """Those of the candidates that serve so many labels. Raises `WayNotAllowed` where there is none."""
        found = [one for one in candidates if _within(way, kit.way(one.learner))]
        if found:
            return found
        allowed = kit.checkpoint.card.way
        if not _within(way, (allowed.min, allowed.max)):
            raise WayNotAllowed(
                f"{kit.name} serves {allowed.min} to {allowed.max} labels; {way} given.", pointer=pointer
            )
        served = [self.candidate(kit, name, {}) for name in kit.checkpoint.card.learners]
        others = [one.name for one in served if _within(way, kit.way(one.learner))]
        advice = f" Of its learners these take {way}: {', '.join(others)}." if others else ""
        bounds = "; ".join(f"{one.name} serves {_words(kit.way(one.learner))} labels" for one in candidates)
        raise WayNotAllowed(f"On {kit.name} {bounds}; {way} given.{advice}", pointer=pointer)

    def _lacking(self, kit: Kit, learner: str, settings: Mapping[str, object], lacking: str) -> InvalidSetting:
        """The error for settings that want weights the checkpoint has not: a random network must not be served."""
        at_fault = [name for name in settings if self._makes(kit, learner, {**settings, name: None})]
        faults = [
            Fault(
                f"/learner_settings/{name}",
                f"{kit.name} has no meta-trained weights for {learner!r} with {name} = {settings[name]!r}.",
                InvalidSetting.code,
            )
            for name in at_fault or settings
        ]
        return InvalidSetting(
            f"With these settings {learner!r} needs weights of its own that {kit.name} does not hold ({lacking}); "
            "leave out the settings that errors names.",
            faults=faults,
        )

    def _makes(self, kit: Kit, learner: str, settings: Mapping[str, object]) -> bool:
        """Whether these settings, those that are None left out, make a learner."""
        asked = {name: value for name, value in settings.items() if value is not None}
        try:
            self._builder.build(kit.name, learner, _settled(kit, learner, asked))
        except (LacksOwnWeights, InvalidSetting):
            return False
        return True

    def _check(self, kit: Kit, learner: str) -> None:
        wrong = f"The card of {kit.name!r} is wrong at 'learners/{learner}': "
        try:
            built = self._builder.build(kit.name, learner, _settled(kit, learner, {}))
        except ImprintError as error:
            raise BadCard(wrong + error.detail) from error
        except LacksOwnWeights as error:
            raise BadCard(
                f"{wrong}its settings need the weights {error}, which are not in 'learner_weights'."
            ) from error
        unused = self._builder.unused(kit.name, learner, built)
        if unused:
            raise BadCard(f"{wrong}its settings leave the learner weights {', '.join(unused)} unused.")
        least, most = kit.way(built.learner)
        if least > most:
            raise BadCard(f"{wrong}the learner serves {built.learner.ways} labels, the card {kit.checkpoint.card.way}.")


def _makings(task: TaskRecord) -> str:
    version = task.version
    return json.dumps([task.backbone, version.backbone_sha256, version.learner, version.learner_settings])


def _settled(kit: Kit, learner: str, settings: Mapping[str, object]) -> dict[str, object]:
    """All settings: the card's, overridden by these. Raises as `parse_settings`."""
    defaults = kit.checkpoint.card.learners.get(learner, {})
    return asdict(learners.parse_settings(learner, {**defaults, **settings}))


def _pointed(error: InvalidSetting) -> InvalidSetting:
    """The error with pointers into a request, not into the settings alone."""
    faults = [Fault("/learner_settings" + one.pointer, one.detail, one.code) for one in error.faults]
    return InvalidSetting(error.detail, faults=faults)


def _within(way: int, bounds: tuple[int, int]) -> bool:
    return bounds[0] <= way <= bounds[1]


def _words(bounds: tuple[int, int]) -> str:
    least, most = bounds
    return str(least) if least == most else f"{least} to {most}"
