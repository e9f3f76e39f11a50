"""Accuracy over many episodes, inductive: a query's answer never depends on other queries."""

import math
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from app.core.episode import Episode, TaskState
from app.learners._base import EmbeddingLearner, Learner
from app.learners._inner_loop import Diverged
from app.training.embedding import device_of, embed_pool
from app.training.parallel import ALONE, Ranks
from app.training.recipe import Judging
from app.training.sampler import Pool, draw, episode_generator, to_episode

_NORMAL_95: Final = 1.96


@dataclass(frozen=True)
class Accuracy:
    """Mean accuracy over episodes and half the width of its 95 % interval, as fractions of 1."""

    mean: float
    interval_95: float
    episodes: int

    def __str__(self) -> str:
        return f"{100 * self.mean:.2f} +- {100 * self.interval_95:.2f} %"


def evaluate(
    learner: Learner[Any], pool: Pool, judging: Judging, *, embedded: bool = False, ranks: Ranks = ALONE
) -> Accuracy:
    """Judge a learner on the classes of a pool, in evaluation mode; its mode is put back.

    A learner on embeddings embeds each example once, however many episodes it is in; `embedded` says that the pool
    holds embeddings already. Other learners adapt to each episode's raw support set. Each rank takes its share of the
    episodes, which are the same whatever their number. In an episode whose inner loop diverges all classes score the
    same, so that its answers are worth chance.
    Raises: `ValueError` where the pool is too small.
    """
    was_training = learner.training
    learner.eval()
    try:
        if isinstance(learner, EmbeddingLearner):
            features = pool if embedded else embed_pool(learner.backbone, pool)
            shares = _shares(learner, features, judging, ranks)
        else:
            shares = _shares(learner, pool, judging, ranks)
    finally:
        learner.train(was_training)
    half_width = _NORMAL_95 * float(shares.std()) / math.sqrt(len(shares))
    return Accuracy(float(shares.mean()), half_width, len(shares))


@torch.no_grad()
def _shares(learner: Learner[Any], pool: Pool, judging: Judging, ranks: Ranks) -> Tensor:
    """The share of right answers in each episode."""
    right = torch.zeros(judging.episodes, dtype=torch.float64, device=ranks.device)
    for number in ranks.share(range(judging.episodes)):
        rows = draw(pool, judging.way, judging.shot + judging.queries, episode_generator(judging.seed, number))
        inputs = pool.take(rows)
        episode = to_episode(inputs.to(device_of(learner.backbone, inputs)), judging.shot)
        guesses = _logits(learner, episode).argmax(1)
        right[number] = (guesses == episode.query_labels).double().mean()
    return ranks.sum_(right).cpu()


def _logits(learner: Learner[Any], episode: Episode) -> Tensor:
    support = episode.support
    if isinstance(learner, EmbeddingLearner):
        state: TaskState = learner.fit(support.inputs, support.labels, support.way)
        return learner.score(state, episode.query_inputs)
    try:
        return learner.logits(learner.adapt(support), episode.query_inputs)
    except Diverged:
        return episode.query_labels.new_zeros(len(episode.query_labels), support.way, dtype=torch.float32)
