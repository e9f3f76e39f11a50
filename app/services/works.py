"""The works that predictions are: score with a stored state, or adapt and score in one."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from app.engine.state_cache import Pin
from app.engine.work import Work
from app.learners._base import EmbeddingLearner
from app.registry.records import TaskRecord
from app.services.builder import AnyLearner
from app.services.call import Call
from app.services.catalogue import Candidate, Kit
from app.services.heads import (
    Adapted,
    AdaptWeightsHead,
    ClassifyHead,
    ClassifyWeightsHead,
    adapt_head,
    input_probabilities,
)
from app.services.scoring import ScoreHead
from app.services.support_sets import SupportSet


def scoring(
    task: TaskRecord, learner: AnyLearner, entry: Pin, inputs: Tensor, call: Call
) -> Work[Float[Tensor, "q way"]]:
    """The work that scores inputs with a task's state."""
    if isinstance(learner, EmbeddingLearner):
        head = ScoreHead(learner, entry)
        return Work(
            backbone=task.backbone,
            inputs=inputs,
            head=head,
            deadline_s=call.deadline_s,
            task=task.id,
            together=head.together(),
        )
    return Work(
        backbone=task.backbone,
        inputs=torch.empty(0),
        head=lambda none: input_probabilities(learner, entry.state(none.device), inputs, none.device),
        deadline_s=call.deadline_s,
        head_examples=len(inputs),
        task=task.id,
    )


def classifying(
    kit: Kit, candidates: Sequence[Candidate], support: SupportSet, inputs: Tensor, call: Call
) -> Work[tuple[Adapted, Float[Tensor, "q way"]]]:
    """The work that adapts and scores: on embeddings, `inputs` are the support's and then the queries'."""
    head = adapt_head(candidates, support)
    if isinstance(head, AdaptWeightsHead):
        return Work(
            backbone=kit.name,
            inputs=torch.empty(0),
            head=ClassifyWeightsHead(head, inputs),
            deadline_s=call.deadline_s,
            head_examples=len(support.members) + len(inputs),
        )
    return Work(backbone=kit.name, inputs=inputs, head=ClassifyHead(head, len(support.new)), deadline_s=call.deadline_s)
