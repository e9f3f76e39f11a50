"""Use cases on predictions: one task, many tasks, none stored, and the recorded ones."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import final

from jaxtyping import Float
from torch import Tensor

from app.codecs import DecodedInput, RawExample, RawInput, decode_inputs
from app.core.errors import TooLarge
from app.core.limits import Limits
from app.engine.scheduler import Engine
from app.registry.records import NewPrediction, Page, PredictionRecord, TaskRecord
from app.registry.repository import Registry
from app.services.adaptation import Recipe
from app.services.admission import Admission
from app.services.answers import Prediction, read_off
from app.services.builder import AnyLearner
from app.services.call import Call
from app.services.catalogue import Catalogue, Kit
from app.services.directory import Directory
from app.services.embedding_cache import EmbeddingCache
from app.services.heads import Adapted
from app.services.pieces import fresh_in_pieces
from app.services.support_sets import SupportSet, check_adaptable
from app.services.tensors import load_state
from app.services.workers import Workers
from app.services.works import classifying, scoring

SMALL_SCORES = 10_000
"""So many are read off where they are: a hop to a thread would cost more."""


class TooManyScores(TooLarge):
    """An answer over `limits.scores`."""

    code = "too-many-scores"
    title = "The answer would be too large"


@dataclass(frozen=True)
class Bound:
    """A task with the checkpoint and the learner that its active version was adapted with."""

    task: TaskRecord
    kit: Kit
    learner: AnyLearner
    state: bytes | None = None
    """That of the active version, where it was read along."""


@dataclass(frozen=True)
class Answer:
    """Predictions of one task for the inputs of one request, in their order."""

    task: TaskRecord
    predictions: tuple[Prediction, ...]
    truncated: tuple[int, ...]

    @property
    def listed(self) -> int:
        """How many scores it lists."""
        return _listed(self.predictions)


@dataclass(frozen=True)
class Classified:
    """Predictions of a classifier that is not kept."""

    labels: tuple[str, ...]
    adapted: Adapted
    support: SupportSet
    predictions: tuple[Prediction, ...]
    truncated: tuple[int, ...]

    @property
    def listed(self) -> int:
        """How many scores it lists."""
        return _listed(self.predictions)


@final
class PredictService:
    """Answers queries."""

    def __init__(
        self,
        registry: Registry,
        engine: Engine,
        catalogue: Catalogue,
        directory: Directory,
        workers: Workers,
        limits: Limits,
        admission: Admission,
        embeddings: EmbeddingCache,
    ) -> None:
        self._registry = registry
        self._engine = engine
        self._catalogue = catalogue
        self._directory = directory
        self._workers = workers
        self._limits = limits
        self._admission = admission
        self._embeddings = embeddings

    async def bound(self, task_id: str) -> Bound:
        """A task as it is now. Raises `TaskNotFound`, `TaskDeleted`, `DeviceMemoryFull`, and as `Catalogue.bound`."""
        task, state = self._directory.known(task_id), None
        if task is None:
            task, state = await self._directory.task_and_state(task_id)
        found = self._catalogue.remembered(task)
        if found is None:  # to build a learner, and bring its weights to the device, takes a while
            found = await self._workers.store(self._catalogue.bound, task)
        return Bound(task, *found, state)

    async def predict(
        self, bound: Bound, raws: Sequence[RawInput], call: Call, *, top_k: int, record: bool = False
    ) -> Answer:
        """Predict with a task's active version; `record` stores each prediction."""
        self._check_count(raws)
        task, kit = bound.task, bound.kit
        labels, dim = task.version.labels, task.version.dim if kit.checkpoint.card.dim is None else None
        with nullcontext() if call.admitted else self._admission.admitted(kit.name, task.id, len(raws)):
            decoded, inputs = await self._decode(kit, raws, call, dim, task=task.id)
            check_scores(len(raws) * min(top_k, len(labels)), self._limits, "/top_k")
            scores = await self._scores(bound, inputs, call)
        predictions = await self._read_off(scores, labels, top_k)
        if record:
            predictions = await self._record(task, decoded, predictions)
        return Answer(task, predictions, _truncated(decoded))

    @asynccontextmanager
    async def many(self, task_ids: Sequence[str]) -> AsyncIterator[None]:
        """Let a request to many tasks in as a whole; what is not there will say so itself. Raises `Busy`."""
        counts = Counter(task_ids)
        found = await asyncio.gather(*map(self._directory.task, counts), return_exceptions=True)
        backbones: Counter[str] = Counter()
        for task in found:
            if isinstance(task, TaskRecord):
                backbones[task.backbone] += counts[task.id]
        with ExitStack() as held:
            for backbone, examples in backbones.items():
                held.enter_context(self._admission.admitted(backbone, None, examples))
            yield

    async def classify(
        self, recipe: Recipe, support_raws: Sequence[RawExample], raws: Sequence[RawInput], call: Call, *, top_k: int
    ) -> Classified:
        """Adapt, predict and forget, in one pass over the backbone."""
        self._check_count(raws)
        kit = self._catalogue.kit(recipe.backbone)
        examples = len(support_raws) + len(raws)
        with self._admission.admitted(kit.name, None, examples, call.timing.computed):
            return await self._classify(kit, recipe, support_raws, raws, call, top_k=top_k)

    async def _classify(
        self,
        kit: Kit,
        recipe: Recipe,
        support_raws: Sequence[RawExample],
        raws: Sequence[RawInput],
        call: Call,
        *,
        top_k: int,
    ) -> Classified:
        choosable = partial(self._catalogue.candidates, kit, recipe.learner, recipe.learner_settings)
        with call.timing.measure("decode_s"):
            asked, support = await fresh_in_pieces(self._workers, kit.codec, support_raws, self._limits, choosable)
        candidates = self._catalogue.fitting(kit, asked, len(support.labels))
        check_scores(len(raws) * min(top_k, len(support.labels)), self._limits, "/top_k")
        dim = support.inputs.shape[1] if kit.checkpoint.card.dim is None else None
        heavy = any(one.adapts_weights for one in candidates)
        if heavy:
            check_adaptable(len(support.members), self._limits)
        before = [] if heavy else [one.input.tensor for one in support.new]
        decoded, inputs = await self._decode(kit, raws, call, dim, before)
        work = classifying(kit, candidates, support, inputs, call)
        recalled = self._embeddings.recall(kit, () if heavy else support.new)
        adapted, scores = call.timing.add(await self._engine.run(await recalled.shortened(work, self._workers)))
        await self._workers.decode(recalled.remember, adapted.new_features)
        call.timing.head_s += adapted.head_s
        predictions = await self._read_off(scores, support.labels, top_k)
        return Classified(support.labels, adapted, support, predictions, _truncated(decoded))

    async def recorded(self, prediction_id: str) -> PredictionRecord:
        """One recorded prediction. Raises `PredictionNotFound`."""
        return await self._workers.store(self._registry.prediction, prediction_id)

    async def recorded_page(self, task_id: str, cursor: str | None, limit: int) -> Page[PredictionRecord]:
        """A task's recorded predictions, newest first."""
        await self._directory.task(task_id)
        return await self._workers.store(self._registry.predictions, task_id, cursor, limit)

    def _check_count(self, raws: Sequence[RawInput]) -> None:
        if len(raws) > self._limits.inputs:
            raise TooLarge(f"{len(raws)} inputs in one request; the limit is {self._limits.inputs}.", pointer="/inputs")

    async def _read_off(
        self, scores: Float[Tensor, "q way"], labels: tuple[str, ...], top_k: int
    ) -> tuple[Prediction, ...]:
        if scores.numel() <= SMALL_SCORES:
            return read_off(scores, labels, top_k)
        return await self._workers.decode(read_off, scores, labels, top_k)

    async def _decode(
        self,
        kit: Kit,
        raws: Sequence[RawInput],
        call: Call,
        dim: int | None,
        before: Sequence[Tensor] = (),
        task: str | None = None,
    ) -> tuple[list[DecodedInput], Tensor]:
        """The inputs, and one batch of all of them behind the tensors `before`."""

        def decode() -> tuple[list[DecodedInput], Tensor]:
            decoded = decode_inputs(kit.codec.expecting(dim), raws)
            return decoded, kit.codec.stack([*before, *(one.tensor for one in decoded)])

        started_s = time.perf_counter()
        try:
            quick = not before and kit.codec.is_quick(raws)
            return decode() if quick else await self._workers.decode_for(task, decode)
        finally:
            call.timing.decode_s += time.perf_counter() - started_s

    async def _scores(self, bound: Bound, inputs: Tensor, call: Call) -> Float[Tensor, "q way"]:
        key = (bound.task.id, bound.task.active_version)
        async with self._engine.states.pinned(key, partial(self._load, *key, bound.state)) as entry:
            call.timing.load_s += entry.load_s
            work = scoring(bound.task, bound.learner, entry, inputs, call)
            return call.timing.add(await self._engine.run(work))

    def _load(self, task_id: str, number: int, state: bytes | None) -> dict[str, Tensor]:
        return dict(load_state(self._registry.load_state(task_id, number) if state is None else state))

    async def _record(
        self, task: TaskRecord, decoded: Sequence[DecodedInput], predictions: tuple[Prediction, ...]
    ) -> tuple[Prediction, ...]:
        def store() -> Sequence[str]:
            rows = [
                NewPrediction(
                    task_id=task.id,
                    version=task.active_version,
                    input_sha256=one.sha256,
                    media_type=one.media_type,
                    content=one.content if task.store_inputs else None,
                    result=prediction.as_json(),
                )
                for one, prediction in zip(decoded, predictions, strict=True)
            ]
            return self._registry.record_predictions(rows)

        ids = await self._workers.store_fully(store)
        return tuple(one.recorded(prediction_id) for one, prediction_id in zip(predictions, ids, strict=True))


def check_scores(scores: int, limits: Limits, pointer: str) -> None:
    """Refuse an answer that would list too many scores. Raises `TooManyScores`."""
    if scores > limits.scores:
        raise TooManyScores(
            f"The answer would list {scores} scores; the limit is {limits.scores}. Lower top_k, or send less.",
            pointer=pointer,
        )


def _listed(predictions: Sequence[Prediction]) -> int:
    return len(predictions) * len(predictions[0].scores)


def _truncated(decoded: Sequence[DecodedInput]) -> tuple[int, ...]:
    return tuple(index for index, one in enumerate(decoded) if one.truncated)
