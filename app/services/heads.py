"""What runs on the device after the backbone pass: fit a head, or score with one.

What a head gives back is on the CPU, but from CUDA it may still be on its way (`app.engine.copies`).
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from app.core.episode import Features, Support, TaskState
from app.core.errors import Fault, ImprintError
from app.core.heartbeat import beat_now
from app.engine.copies import to_device, to_host
from app.learners._base import EmbeddingLearner
from app.learners._inner_loop import Diverged
from app.learners._select import HeldOut, Selection, judge, select
from app.learners._together import adapt_together, judge_together
from app.learners._weights import WeightLearner
from app.services.builder import AnyLearner
from app.services.catalogue import Candidate
from app.services.support_sets import SupportSet
from app.services.twins import twin

AnyHead: TypeAlias = EmbeddingLearner[Any]


@dataclass(frozen=True, eq=False)
class Adapted:
    """What an adaptation made; everything is on the CPU."""

    candidate: Candidate
    state: TaskState
    held_out: HeldOut | None
    selection: Selection | None
    new_features: Float[Tensor, "new dim"]
    head_s: float


@final
class AdaptHead:
    """Fits the learner on embeddings (for `auto`, the best of several) on a whole support set.

    The set is `known` embeddings, stored by an earlier version, followed by the new ones of this work,
    taken in the given `order`; so an update embeds only what is new and still equals a fresh fit.
    """

    def __init__(
        self,
        candidates: Sequence[Candidate],
        labels: Int64[Tensor, " s"],
        way: int,
        *,
        known: Float[Tensor, "known dim"] | None = None,
        order: Int64[Tensor, " s"] | None = None,
    ) -> None:
        self.candidates = {one.name: one for one in candidates}
        self.labels = labels
        self.way = way
        self.known = known
        self.order = order

    def __call__(self, features: Float[Tensor, "new dim"]) -> Adapted:
        """Fit on the device; `features` are those of this work's inputs."""
        started = time.perf_counter()
        support = features
        if self.known is not None:
            known = to_device(self.known, features.device)
            support = torch.cat([known, features]) if len(features) else known
        if self.order is not None:
            support = support[to_device(self.order, features.device)]
        labels = to_device(self.labels, features.device)
        chosen, held_out, selection = self._choose(support, labels)
        with _pointing_at_settings():
            state = _kept(chosen, on_embeddings(chosen.learner).fit(support, labels, self.way))
        taken_s = time.perf_counter() - started
        return Adapted(chosen, state, held_out, selection, to_host(features), taken_s)

    def _choose(
        self, support: Float[Tensor, "s dim"], labels: Int64[Tensor, " s"]
    ) -> tuple[Candidate, HeldOut | None, Selection | None]:
        if len(self.candidates) == 1:
            only = next(iter(self.candidates.values()))
            return only, judge(on_embeddings(only.learner), support, labels, self.way), None
        learners: Mapping[str, AnyHead] = {name: on_embeddings(one.learner) for name, one in self.candidates.items()}
        selection = select(learners, support, labels, self.way)
        return self.candidates[selection.chosen], selection.scores.get(selection.chosen), selection


@final
class AdaptWeightsHead:
    """Adapts the backbone's weights to a whole support set; its embeddings pass through, to be stored.

    `inputs` are those of all examples, in the order of `labels`, on the CPU.
    """

    def __init__(self, candidate: Candidate, inputs: Shaped[Tensor, "s ..."], labels: Int64[Tensor, " s"], way: int):
        self.candidate = candidate
        self.inputs = inputs
        self.labels = labels
        self.way = way

    def __call__(self, features: Float[Tensor, "new dim"]) -> Adapted:
        """Adapt and judge on the device."""
        started = time.perf_counter()
        learner = twin(self.candidate.learner)
        inputs, labels = (to_device(one, features.device) for one in (self.inputs, self.labels))
        with _pointing_at_settings():
            state = _kept(self.candidate, learner.adapt(Support(inputs, labels, self.way)))
        held_out = self._judged(learner, inputs, labels)
        taken_s = time.perf_counter() - started
        return Adapted(self.candidate, state, held_out, None, to_host(features), taken_s)

    def _judged(
        self, learner: AnyLearner, inputs: Shaped[Tensor, "s ..."], labels: Int64[Tensor, " s"]
    ) -> HeldOut | None:
        """None also where the adaptation to a part of the set diverges: that to all of it has not."""
        try:
            return judge(learner, inputs, labels, self.way)
        except Diverged:
            return None


def adapted_by_vmap(heads: Sequence[AdaptWeightsHead], features: Sequence[Features]) -> list[Adapted | ImprintError]:
    """The adaptations of heads of one learner and one shape, side by side.

    Raises: `TypeError` for a learner that adapts no weights, and what `adapt_together` raises.
    """
    started = time.perf_counter()
    learner = twin(heads[0].candidate.learner)
    if not isinstance(learner, WeightLearner):
        raise TypeError(f"{type(learner).__name__} adapts no weights")
    supports = [
        Support(to_device(one.inputs, own.device), one.labels, one.way)
        for one, own in zip(heads, features, strict=True)
    ]
    states = adapt_together(learner, supports)
    fine = [index for index, state in enumerate(states) if not isinstance(state, Diverged)]
    judged = dict(zip(fine, judge_together(learner, [supports[index] for index in fine]), strict=True)) if fine else {}
    found: list[Adapted | ImprintError] = []
    for index, (head, state) in enumerate(zip(heads, states, strict=True)):
        if isinstance(state, Diverged):
            found.append(_of_request(state))
            continue
        kept = {name: to_host(tensor) for name, tensor in state.items()}
        taken_s = time.perf_counter() - started
        found.append(Adapted(head.candidate, kept, judged[index], None, to_host(features[index]), taken_s))
    return found


AnyAdaptHead: TypeAlias = AdaptHead | AdaptWeightsHead


def adapt_head(candidates: Sequence[Candidate], support: SupportSet) -> AnyAdaptHead:
    """The head that adapts one of the candidates to a support set.

    Raises: `ValueError` for a learner that adapts weights beside others, or without the inputs of all examples.
    """
    way = len(support.labels)
    if not any(one.adapts_weights for one in candidates):
        return AdaptHead(candidates, support.columns, way, known=support.known, order=support.rows)
    if len(candidates) > 1 or support.all_inputs is None:
        raise ValueError("a learner that adapts weights comes alone, with all inputs")
    return AdaptWeightsHead(candidates[0], support.all_inputs, support.columns, way)


def probabilities(learner: AnyHead, state: TaskState, features: Float[Tensor, "q dim"]) -> Float[Tensor, "q way"]:
    """The confidence of every label, on the CPU."""
    return to_host(learner.score(state, features).softmax(-1))


def input_probabilities(
    learner: AnyLearner, state: TaskState, inputs: Shaped[Tensor, "q ..."], device: torch.device
) -> Float[Tensor, "q way"]:
    """The confidence of every label by a learner that takes the inputs themselves (on the CPU), on the CPU."""
    own, found = twin(learner), []
    for some in torch.split(inputs, learner.backbone.micro_batch_examples(device.type)):
        beat_now()
        found.append(own.logits(state, to_device(some, device)).softmax(-1))
    return to_host(found[0] if len(found) == 1 else torch.cat(found))


@final
class ClassifyHead:
    """Fits on the first rows of a work and scores the rest: nothing is kept."""

    def __init__(self, adapt: AdaptHead, support_size: int) -> None:
        self.adapt = adapt
        self.support_size = support_size

    def __call__(self, features: Float[Tensor, "n dim"]) -> tuple[Adapted, Float[Tensor, "q way"]]:
        """The adaptation, and the probabilities of the queries."""
        adapted = self.adapt(features[: self.support_size])
        state = _on_device(adapted.state, features.device)
        learner = on_embeddings(adapted.candidate.learner)
        return adapted, probabilities(learner, state, features[self.support_size :])


@final
class ClassifyWeightsHead:
    """Adapts weights and scores the queries with them: nothing is kept, and nothing is embedded."""

    def __init__(self, adapt: AdaptWeightsHead, queries: Shaped[Tensor, "q ..."]) -> None:
        self.adapt = adapt
        self.queries = queries

    def __call__(self, features: Float[Tensor, "0 dim"]) -> tuple[Adapted, Float[Tensor, "q way"]]:
        """The adaptation, and the probabilities of the queries."""
        adapted = self.adapt(features)
        state = _on_device(adapted.state, features.device)
        learner = adapted.candidate.learner
        return adapted, input_probabilities(learner, state, self.queries, features.device)


def on_embeddings(learner: AnyLearner) -> AnyHead:
    """The learner, which must be one on embeddings. Raises: `TypeError`."""
    if not isinstance(learner, EmbeddingLearner):
        raise TypeError(f"{type(learner).__name__} does not work on embeddings")
    return learner


def _on_device(state: TaskState, device: torch.device) -> TaskState:
    return {name: to_device(tensor, device) for name, tensor in state.items()}


@contextmanager
def _pointing_at_settings() -> Iterator[None]:
    """A learner speaks of its settings (`/steps`); a request holds them under `/learner_settings`."""
    try:
        yield
    except Diverged as error:
        raise _of_request(error) from None


def _of_request(error: Diverged) -> Diverged:
    error.faults = [Fault("/learner_settings" + one.pointer, one.detail, one.code) for one in error.faults]
    return error


def _kept(candidate: Candidate, state: TaskState) -> TaskState:
    """The state on the CPU. Raises: `Diverged` for a trace that left the finite numbers."""
    losses = state.get("support_losses")
    if losses is not None and not bool(losses.isfinite().all()):
        rate = next((name for name in ("learning_rate", "rate") if name in candidate.settings), "steps")
        raise Diverged(rate=rate, steps="steps")
    return {name: to_host(tensor) for name, tensor in state.items()}
