"""From a support set to a version that can be stored: the one place where adaptation happens."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import final

import torch

from app.core.limits import Limits
from app.engine.scheduler import Engine
from app.engine.work import Work
from app.registry.records import NewVersion
from app.services.call import Call
from app.services.catalogue import Candidate, Catalogue, Kit
from app.services.embedding_cache import EmbeddingCache, Recalled
from app.services.heads import Adapted, AdaptWeightsHead, adapt_head
from app.services.support_sets import InputsNotStored, SupportSet, check_adaptable, new_examples
from app.services.tensors import dump_state, trace_of
from app.services.together import SideBySide
from app.services.workers import Workers


@dataclass(frozen=True)
class Recipe:
    """How a task is adapted: what its creator asked for, kept for every later update."""

    backbone: str
    learner: str
    learner_settings: Mapping[str, object]
    store_inputs: bool


@final
class Adaptation:
    """Embeds what is new, fits the heads, and packs the outcome."""

    def __init__(
        self, engine: Engine, catalogue: Catalogue, workers: Workers, limits: Limits, embeddings: EmbeddingCache
    ) -> None:
        self._engine = engine
        self._catalogue = catalogue
        self._workers = workers
        self._limits = limits
        self._embeddings = embeddings
        self._side_by_side = SideBySide(engine.device, torch.get_num_threads())

    async def version(
        self,
        kit: Kit,
        candidates: Sequence[Candidate],
        support: SupportSet,
        call: Call,
        *,
        store_inputs: bool,
        change: str,
        parent: int | None = None,
        task: str | None = None,
    ) -> NewVersion:
        """Adapt `support` and give the version to store, of a `task` that is there. Raises what the engine raises."""
        fitting = self._catalogue.fitting(kit, candidates, len(support.labels))
        adapted, recalled = await self._adapt(kit, fitting, support, call, task)
        call.check()
        timing = call.timing.milliseconds()

        def packed() -> NewVersion:
            recalled.remember(adapted.new_features)
            return pack(support, adapted, store_inputs=store_inputs, timing=timing, change=change, parent=parent)

        return await self._workers.decode(packed)

    async def _adapt(
        self, kit: Kit, candidates: Sequence[Candidate], support: SupportSet, call: Call, task: str | None
    ) -> tuple[Adapted, Recalled]:
        """Run the backbone over the new examples that are not known and fit."""
        heavy = any(one.adapts_weights for one in candidates)
        if heavy:
            check_adaptable(len(support.members), self._limits)
        head = adapt_head(candidates, support)
        work = Work(
            backbone=kit.name,
            inputs=support.inputs,
            head=head,
            deadline_s=call.deadline_s,
            head_examples=len(support.members) if heavy else 0,
            task=task,
            together=self._side_by_side.of(head) if isinstance(head, AdaptWeightsHead) else None,
        )
        recalled = self._embeddings.recall(kit, () if heavy else support.new)
        adapted = call.timing.add(await self._engine.run(await recalled.shortened(work, self._workers)))
        call.timing.head_s += adapted.head_s
        return adapted, recalled


def pack(
    support: SupportSet,
    adapted: Adapted,
    *,
    store_inputs: bool,
    timing: Mapping[str, float],
    change: str,
    parent: int | None,
) -> NewVersion:
    """What the registry stores of an adaptation."""
    dim = adapted.new_features.shape[1] if support.known is None else support.known.shape[1]
    return NewVersion(
        change=change,
        parent=parent,
        backbone_sha256=adapted.candidate.sha256,
        learner=adapted.candidate.name,
        learner_settings=dict(adapted.candidate.settings),
        labels=support.labels,
        dim=dim,
        selection=asdict(adapted.selection) if adapted.selection else None,
        held_out=asdict(adapted.held_out) if adapted.held_out else None,
        warnings=(*support.warnings(), *_warnings(adapted.candidate, store_inputs=store_inputs)),
        timing=dict(timing),
        state=dump_state(adapted.state),
        example_ids=tuple(one.example_id for one in support.members),
        new_examples=new_examples(support.new, adapted.new_features, store_inputs=store_inputs),
        adaptation=trace_of(adapted.state),
    )


def _warnings(candidate: Candidate, *, store_inputs: bool) -> list[dict[str, str]]:
    if store_inputs or not candidate.adapts_weights:
        return []
    detail = (
        f"{candidate.name} adapts on the examples themselves, and they are not kept: this task answers, "
        "but its examples and labels cannot be changed."
    )
    return [{"code": InputsNotStored.code, "detail": detail}]
