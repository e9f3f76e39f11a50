"""Numerically careful steps that several learners share: class means, distances, units of length."""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int64
from torch import Tensor

LOGIT_LIMIT = 1e30
"""Logits stay within this, so that embeddings of absurd size still give finite scores."""

_FAR = 1e15

_FEW = 8_192
"""Coordinates of all `b` up to which differences are taken straight: a fifth of the steps, which is what a single query
costs. With many queries it takes longer than the expansion, but nowhere long."""

_AT_ONCE = 1_048_576
"""Numbers that are held in memory for one step."""


def class_means(
    features: Float[Tensor, "s dim"], labels: Int64[Tensor, " s"], way: int
) -> tuple[Float[Tensor, "way dim"], Float[Tensor, "way 1"]]:
    """Mean embedding and shot of each class, summed in float64: the order of examples leaves no trace in float32."""
    wide = features.double()
    shots = labels.bincount(minlength=way)[:, None].to(wide)
    if way * wide.numel() <= _AT_ONCE:  # a product: `index_add` wakes all of torch's threads for a few numbers
        sums = torch.nn.functional.one_hot(labels, way).to(wide).T @ wide
    else:
        sums = wide.new_zeros(way, features.shape[1]).index_add(0, labels, wide)
    return (sums / shots).to(features.dtype), shots.to(features.dtype)


def squared_distances(a: Float[Tensor, "*t n dim"], b: Float[Tensor, "*t way dim"]) -> Float[Tensor, "*t n way"]:
    """Squared Euclidean distance of each pair, finite for all finite inputs, never negative; in each task by itself.

    To few `b` straight, in float64. To many by the expansion |a|^2 - 2ab + |b|^2 (one matrix product), moved to the
    mean of `b` and divided by its reach first, because it cancels badly far from the origin and overflows far from one.
    """
    if b.shape[-2] * b.shape[-1] <= _FEW:  # whatever the rows and tasks: a row's numbers must not depend on others
        rows = max(1, _AT_ONCE // max(1, b.numel()))
        if a.shape[-2] <= rows:
            return _straight(a, b)
        return torch.cat([_straight(some, b) for some in torch.split(a, rows, dim=-2)], dim=-2)
    # A power of two, so that dividing by it rounds nothing.
    reach = _or_one(b.detach().abs().amax(dim=(-2, -1), keepdim=True)).log2().floor().exp2()
    centre = (b.detach() / reach).mean(dim=-2, keepdim=True)
    near = b / reach - centre
    unit = _or_one(near.detach().abs().amax(dim=(-2, -1), keepdim=True))
    near = near / unit
    far = ((a / reach - centre) / unit).clamp(-_FAR, _FAR)
    squares = far.square().sum(-1, keepdim=True) - 2 * far @ near.mT + near.square().sum(-1)[..., None, :]
    scale = unit * reach
    return (squares.clamp_min(0) * scale * scale).clamp_max(LOGIT_LIMIT)


def _straight(a: Float[Tensor, "*t n dim"], b: Float[Tensor, "*t way dim"]) -> Float[Tensor, "*t n way"]:
    apart = a.double()[..., None, :] - b.double()[..., None, :, :]
    return apart.square().sum(-1).clamp_max(LOGIT_LIMIT).to(a.dtype)


def spread(features: Float[Tensor, "s dim"]) -> Float[Tensor, ""]:
    """Root mean squared distance of the examples from their mean, in embedding units, above zero.

    The unit of length that makes a setting fit embeddings of any scale. Where all examples are alike there is
    no such length: then it is the largest coordinate, and for zero vectors one.
    """
    everyone = features.new_ones(1, len(features), dtype=torch.float64)
    return spreads(features.double(), everyone)[0].clamp_max(torch.finfo(features.dtype).max).to(features.dtype)


def spreads(features: Float[Tensor, "s dim"], kept: Float[Tensor, "folds s"]) -> Float[Tensor, " folds"]:
    """The spread of the examples that each row of `kept` marks with one."""
    counts = kept.sum(dim=1)
    means = kept @ features / counts[:, None]
    squares = (features - means[:, None]).square().sum(dim=2)
    mean_square = (squares * kept).sum(dim=1) / counts
    length = _or_one(mean_square).sqrt() * (mean_square > 0)  # the root of zero has no gradient
    largest = (features.detach().abs().amax(dim=1) * kept).amax(dim=1)
    return torch.where(length > 1e-6 * largest, length, _or_one(largest))


def in_units(features: Float[Tensor, "*t n dim"], unit: Float[Tensor, "*t"]) -> Float[Tensor, "*t n dim"]:
    """Embeddings in their task's unit of length, cut off where further sums would overflow."""
    return (features / unit[..., None, None]).clamp(-_FAR, _FAR)


def groups_by_shot(labels: Int64[Tensor, " s"], way: int) -> Iterator[Int64[Tensor, "classes shot"]]:
    """Row numbers of the examples by class, one rectangle for each shot that occurs."""
    shots = labels.bincount(minlength=way)
    order = labels.argsort(stable=True)
    starts = shots.cumsum(0) - shots
    for shot in sorted(set(shots.tolist())):
        if shot:
            yield order[starts[shots == shot][:, None] + torch.arange(shot, device=labels.device)]


def unit_vectors(features: Float[Tensor, "*t n dim"]) -> Float[Tensor, "*t n dim"]:
    """Each row over its length; a row of zeros stays zero."""
    largest = _or_one(features.detach().abs().amax(dim=-1, keepdim=True))
    scaled = features / largest
    return scaled / _or_one(scaled.square().sum(-1, keepdim=True)).sqrt()


def _or_one(length: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    return torch.where(length > 0, length, torch.ones_like(length))
