"""The same programme as `_qp`, for sets too large for second-order steps: near its optimum, by gradients."""

import math
from collections.abc import Callable
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from app.core.heartbeat import beat_now

NEAR: Final = 1e-5
"""The duality gap, as a share of the optimum's value, at which it stops."""

_LIMIT: Final = 3000
_CHECK_EVERY: Final = 25
_POWER_STEPS: Final = 60
_MARGIN: Final = 1.1
"""Power iteration comes from below."""


@torch.no_grad()
def nearly_optimal_shares(
    rows: Float[Tensor, "s dim"], costs: Float[Tensor, " s"], targets: Float[Tensor, "s way"]
) -> Float[Tensor, "s way"]:
    """Shares whose duality gap is at most `NEAR` of the optimum's value (or what 3,000 steps reach).

    Accelerated projected gradients (Beck and Teboulle 2009) with restarts (O'Donoghue and Candes 2015). A step takes
    2 s way min(s, 2 dim) products. Deterministic. Raises: what the heartbeat raises, `DeadlinePassed` for one.
    """
    curvature = _curvature(costs[:, None] * rows)
    linear = costs[:, None] * targets
    length = 1 / (_MARGIN * _largest(curvature, targets[:, :1]))
    shares = torch.full_like(targets, 1 / targets.shape[1])
    ahead, pace = shares, 1.0
    for step in range(_LIMIT):
        if step % _CHECK_EVERY == 0:
            beat_now()
            if _relative_gap(curvature, linear, costs, targets, shares) <= NEAR:
                break
        moved = onto_simplex(ahead - length * (linear - curvature(targets - ahead)))
        if float(((ahead - moved) * (moved - shares)).sum()) > 0:
            pace = 1.0
        faster = (1 + math.sqrt(1 + 4 * pace * pace)) / 2
        ahead, shares, pace = moved + (pace - 1) / faster * (moved - shares), moved, faster
    return shares


def onto_simplex(points: Float[Tensor, "n way"]) -> Float[Tensor, "n way"]:
    """The nearest point of each row whose entries are at least 0 and sum to one.

    Newton's method finds the level that is taken off all entries, from below: what is left over it falls convexly with
    the level. Some eight rounds, and less work than sorting.
    """
    level = points.amax(dim=1, keepdim=True) - 1
    for _ in range(points.shape[1]):
        over = (points - level).clamp_min_(0)
        excess = over.sum(dim=1, keepdim=True) - 1
        if not bool((excess > 8 * torch.finfo(points.dtype).eps).any()):
            break
        level = level + excess.clamp_min(0) / over.count_nonzero(dim=1)[:, None]
    return (points - level).clamp_min_(0)


def _curvature(rows: Float[Tensor, "s dim"]) -> Callable[[Tensor], Tensor]:
    """Multiplies by rows rows^T, in the cheaper of two ways."""
    if len(rows) <= 2 * rows.shape[1]:
        gram = rows @ rows.T
        return lambda block: gram @ block
    return lambda block: rows @ (rows.T @ block)


def _largest(curvature: Callable[[Tensor], Tensor], like: Float[Tensor, "s 1"]) -> float:
    """Its largest eigenvalue, from a start that no row or column is special to; above zero."""
    at = torch.linspace(1, 2, len(like), dtype=like.dtype, device=like.device)[:, None]
    size = 0.0
    for _ in range(_POWER_STEPS):
        at = curvature(at / at.norm().clamp_min(1e-30))
        size = float(at.norm())
    return max(size, 1e-30)


def _relative_gap(
    curvature: Callable[[Tensor], Tensor],
    linear: Float[Tensor, "s way"],
    costs: Float[Tensor, " s"],
    targets: Float[Tensor, "s way"],
    shares: Float[Tensor, "s way"],
) -> float:
    """(primal - dual) / primal, where the primal is that of the weights which these shares make."""
    apart = targets - shares
    scores = costs[:, None].reciprocal() * curvature(apart)
    margins = (scores + 1 - targets).amax(dim=1) - (scores * targets).sum(dim=1)
    energy = float((apart * curvature(apart)).sum()) / 2
    primal = float((costs * margins).sum()) + energy
    dual = float(costs.sum() - (linear * shares).sum()) - energy
    return (primal - dual) / max(primal, 1e-30)
