"""Descent in a linear head as if embeddings were centred on the support set and measured in its spread."""

from collections.abc import Callable
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from app.learners._inner_loop import BIAS, WEIGHT, Update, Weights, near

UNITS: Final = ("embedding", "support")
"""Choices of a setting `head_units`."""

DESCRIPTION: Final = (
    "What the head's rate is for: embeddings as they are, or moved to the support set's mean and over its spread, "
    "so that one rate fits embeddings of any scale."
)


def in_units(
    units: str, update: Update, features: Callable[[], Tensor], shares: Float[Tensor, "*t s way"], *, graph: bool
) -> Update:
    """`update` in the units of a setting `head_units`. `features()` embeds the support set; with `graph`, the outcome
    is differentiated through its mean and spread."""
    if units == "embedding":
        return update
    return in_support_units(update, features() if graph else features().detach(), shares)


def in_support_units(update: Update, features: Float[Tensor, "*t s dim"], shares: Float[Tensor, "*t s way"]) -> Update:
    """`update` as it would be of a head on z = (x - c) / u, written in the head on x.

    c is the mean of the class means and u^2 the classes' mean squared distance from it, both of the embeddings
    `features` that the adaptation starts at. With w z + b = (w / u) x + b - w c / u, a step of a head on z moves that
    on x along (G - g c^T) / u^2 and g - (G - g c^T) c / u^2, where G and g are its slopes in weights and bias.
    """
    rows = near(features, shares)
    weights = shares.sum(dim=-1, keepdim=True)
    centre = (weights * rows).sum(dim=-2)
    square = (weights * (rows - centre[..., None, :]).square()).sum(dim=(-2, -1))
    square = torch.where(square > 0, square, torch.ones_like(square))

    def stretched(step: int, before: Weights, slopes: Weights) -> Weights:
        slope, bias = slopes[WEIGHT], slopes[BIAS]
        slope = (slope - bias[..., None] * centre[..., None, :]) / square[..., None, None]
        shift = bias - (slope @ centre[..., None])[..., 0]
        return update(step, before, {**slopes, WEIGHT: slope, BIAS: shift})

    return stretched
