"""Accuracy over many episodes, inductive: a query's answer never depends on other queries."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from app.backbones._base import Backbone
from app.learners._base import EmbeddingLearner
from app.training.recipe import Judging
from app.training.sampler import Pool, draw, to_episode


@dataclass(frozen=True)
class Accuracy:
    """Mean accuracy over episodes and half the width of its 95 % interval, as fractions of 1."""

    mean: float
    interval_95: float
    episodes: int


@torch.no_grad()
def embed_pool(backbone: Backbone, pool: Pool) -> Pool:
    """Embed every example once, in evaluation mode (running statistics); the backbone's mode is put back."""
    was_training = backbone.training
    backbone.eval()
    flat = pool.inputs.flatten(0, 1)
    device = next(backbone.parameters()).device
    size = backbone.micro_batch_examples(device.type)
    features = torch.cat([backbone(part.to(device)) for part in torch.split(flat, size)])
    backbone.train(was_training)
    return Pool(features.reshape(*pool.inputs.shape[:2], -1))


@torch.no_grad()
def evaluate(head: EmbeddingLearner[Any], features: Pool, judging: Judging) -> Accuracy:
    """Judge a learner on embedded classes.

    `head` is the learner over the identity backbone, so that each example is embedded once
    however many episodes it is in. Raises: `ValueError` where the pool is too small.
    """
    generator = torch.Generator().manual_seed(judging.seed)
    right: list[float] = []
    for _ in range(judging.episodes):
        rows = draw(features, judging.way, judging.shot + judging.queries, generator)
        episode = to_episode(features.inputs[rows], judging.shot)
        logits = head.logits(head.adapt(episode.support), episode.query_inputs)
        right.append(_share_right(logits, episode.query_labels))
    means = torch.tensor(right, dtype=torch.float64)
    half_width = 1.96 * float(means.std()) / math.sqrt(len(means))
    return Accuracy(float(means.mean()), half_width, len(means))


def _share_right(logits: Float[Tensor, "q way"], labels: Tensor) -> float:
    return float((logits.argmax(1) == labels).double().mean())
