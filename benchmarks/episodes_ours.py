"""Our learners on the episodes of a folder, in a process of their own: the other side of `peer_servers/episodes.py`.

Called as a Python library has them, a task at a time, without the server.
"""

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from app import backbones, learners
from app.core.episode import Support
from app.learners._base import EmbeddingLearner, Learner
from benchmarks.meta_contenders import Task
from benchmarks.peer_servers import turns
from benchmarks.peer_servers.episodes import Scores, Turns, Work

BLOCKS: Final = "blocks."
HEAD: Final = "head."


def ours(work: Work, weights: Mapping[str, Tensor], kind: torch.dtype) -> Scores:
    """Our learner of that name, in evaluation mode."""
    learner = learner_of(work, weights).to(work.device).eval().requires_grad_(False)
    if kind == torch.float64:  # some of its numbers are always so; never the other way
        learner.double()

    @torch.no_grad()
    def from_images(task: Task) -> Tensor:
        state = learner.adapt(Support(task.support, task.support_labels, work.way))
        return learner.logits(state, task.queries)

    @torch.no_grad()
    def from_embeddings(task: Task) -> Tensor:
        assert isinstance(learner, EmbeddingLearner)
        return learner.score(learner.fit(task.support, task.support_labels, work.way), task.queries)

    return from_images if work.images else from_embeddings


def learner_of(work: Work, weights: Mapping[str, Tensor]) -> Learner[Any]:
    """Over a conv4 with these weights, with the settings that the peers' algorithms have."""
    backbone = backbones.build("conv4", {})
    backbone.load_state_dict({name: one for name, one in weights.items() if name.startswith(BLOCKS)})
    settings: dict[str, object] = {}
    if work.method == "matching":
        # easyfsl reads the support set as often as there are examples in it.
        settings = {"temperature": 1.0, "full_context": True, "context_steps": work.way * work.shot}
    if work.method == "maml":
        rates = {"learning_rate": work.rate, "head_learning_rate": work.rate}
        settings = {"head": "fixed", "head_way": work.way, "steps": work.steps, **rates}
    built = learners.build(work.method, backbone, settings)
    if work.method == "maml":
        built.load_own_state({name: one for name, one in weights.items() if name.startswith(HEAD)})
    return built


if __name__ == "__main__":
    turns.serve(Turns(ours, lambda _, scores: scores, scaled=False))
