"""What runs on the device after the backbone pass: fit a head, or score with one."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from app.core.episode import TaskState
from app.learners._base import EmbeddingLearner, EmbeddingSettings
from app.learners._select import HeldOut, Selection, judge, select
from app.services.catalogue import Candidate

AnyHead: TypeAlias = EmbeddingLearner[EmbeddingSettings]


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
    """Fits the learner (for `auto`, the best of several) on a whole support set.

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
            known = self.known.to(features.device)
            support = torch.cat([known, features]) if len(features) else known
        if self.order is not None:
            support = support[self.order.to(features.device)]
        labels = self.labels.to(features.device)
        chosen, held_out, selection = self._choose(support, labels)
        state = chosen.learner.fit(support, labels, self.way)
        return Adapted(
            chosen,
            {name: tensor.detach().cpu() for name, tensor in state.items()},
            held_out,
            selection,
            features.detach().cpu(),
            time.perf_counter() - started,
        )

    def _choose(
        self, support: Float[Tensor, "s dim"], labels: Int64[Tensor, " s"]
    ) -> tuple[Candidate, HeldOut | None, Selection | None]:
        if len(self.candidates) == 1:
            only = next(iter(self.candidates.values()))
            return only, judge(only.learner, support, labels, self.way), None
        learners: Mapping[str, AnyHead] = {name: one.learner for name, one in self.candidates.items()}
        selection = select(learners, support, labels, self.way)
        return self.candidates[selection.chosen], selection.scores.get(selection.chosen), selection


def probabilities(learner: AnyHead, state: TaskState, features: Float[Tensor, "q dim"]) -> Float[Tensor, "q way"]:
    """The confidence of every label, on the CPU."""
    return learner.score(state, features).softmax(-1).cpu()


@final
class ClassifyHead:
    """Fits on the first rows of a work and scores the rest: nothing is kept."""

    def __init__(self, adapt: AdaptHead, support_size: int) -> None:
        self.adapt = adapt
        self.support_size = support_size

    def __call__(self, features: Float[Tensor, "n dim"]) -> tuple[Adapted, Float[Tensor, "q way"]]:
        """The adaptation, and the probabilities of the queries."""
        adapted = self.adapt(features[: self.support_size])
        state = {name: tensor.to(features.device) for name, tensor in adapted.state.items()}
        return adapted, probabilities(adapted.candidate.learner, state, features[self.support_size :])
