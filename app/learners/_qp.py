"""The quadratic programme of a multi-class support vector machine: its exact optimum, and derivatives through it."""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

_LIMIT: Final = 60
_FLOOR: Final = 1e-13
"""The share of the margin term at which the complementarity is as good as zero: further, rounding gains nothing."""
_PROXIMAL: Final = 1e-13
"""Share of the largest curvature that keeps the factors positive where examples repeat; it moves no optimum."""
_STEP: Final = 0.995

_Direction = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Optimum:
    """Where `SimplexQP.solve` arrived: the shares, and the multipliers of shares >= 0 and of a row's sum."""

    shares: Float64[Tensor, "b s way"]
    slack: Float64[Tensor, "b s way"]
    level: Float64[Tensor, "b s 1"]


@dataclass(frozen=True, eq=False)
class SimplexQP:
    """`b` programmes: minimise <Y - B, H (Y - B)> / 2 + sum_i cost_i B_i,y_i; each row of B, the shares, is a simplex.

    It is the dual of Crammer and Singer, JMLR 2001, with alpha = cost (Y - B): Y holds one at each example's label, and
    B_ik is the part of example i's cost that its rival k draws. All classes share H, so that a Newton step takes `way`
    factorisations of (s, s), not one of (s way, s way): the structure that generic solvers lose.
    """

    curvature: Float64[Tensor, "b s s"]
    costs: Float64[Tensor, "b s"]
    targets: Float64[Tensor, "s way"]

    def slope(self, shares: Float64[Tensor, "b s way"]) -> Float64[Tensor, "b s way"]:
        """Gradient of the objective."""
        return self.costs[:, :, None] * self.targets - self.curvature @ (self.targets - shares)

    @torch.no_grad()
    def solve(self) -> Optimum:
        """The optimum by a primal-dual interior point (Mehrotra 1992), some 10 to 20 steps.

        Deterministic, and the order of rows and columns matters as little as rounding. Raises nothing: it ends where
        the duality gap is as good as zero, or where rounding lets it come no nearer.
        """
        shares = torch.full_like(self.targets, 1 / self.targets.shape[1]).expand(len(self.costs), -1, -1)
        slope = self.slope(shares)
        level = slope.amin(dim=2, keepdim=True) - self.costs.amax(dim=1)[:, None, None]
        now = Optimum(shares, slope - level, level)
        for _ in range(_LIMIT):
            todo = self._unfinished(now)
            if not bool(todo.any()):
                break
            moved = self._moved(now, todo)
            if not bool(moved.shares.isfinite().all()):
                break
            now = moved
        return now

    def differentiable(self, at: Optimum) -> Float64[Tensor, "b s way"]:
        """The optimum's shares, tied to `curvature` and `costs` for autograd by the implicit function theorem.

        One more Newton step from the optimum, whose matrix is held constant: its length is zero and its derivative
        that of the optimum (of the one the interior point chose, where many are optimal).
        """
        residual = self.slope(at.shares) - at.level - at.slack
        return at.shares + _Newton.at(self.curvature.detach(), at).direction(-residual)[0]

    def _unfinished(self, at: Optimum) -> Bool[Tensor, " b"]:
        apart = self.targets - at.shares
        energy = (apart * (self.curvature @ apart)).sum(dim=(1, 2))
        return (at.shares * at.slack).sum(dim=(1, 2)) > _FLOOR * energy.clamp_min(torch.finfo(energy.dtype).tiny)

    def _moved(self, at: Optimum, todo: Bool[Tensor, " b"]) -> Optimum:
        """A predictor, a corrector, and as long a step as keeps shares and slack above zero."""
        newton = _Newton.at(self.curvature, at)
        residual = self.slope(at.shares) - at.level - at.slack
        product = at.shares * at.slack
        gap = product.mean(dim=(1, 2), keepdim=True)
        d_shares, d_slack, _ = newton.with_slack(-residual, -product)
        far = _longest(at, d_shares, d_slack)
        after = ((at.shares + far * d_shares) * (at.slack + far * d_slack)).mean(dim=(1, 2), keepdim=True)
        goal = (after / gap) ** 3 * gap
        d_shares, d_slack, d_level = newton.with_slack(-residual, goal - product - d_shares * d_slack)
        step = (_STEP * _longest(at, d_shares, d_slack)).clamp_max(1) * todo[:, None, None]
        return Optimum(at.shares + step * d_shares, at.slack + step * d_slack, at.level + step * d_level)


@dataclass(frozen=True, eq=False)
class _Newton:
    """The Newton system at a point: (H + D_k) dB_k - dlevel = right_k for each class k, and sum_k dB_k = 0."""

    at_point: Optimum
    ratio: Float64[Tensor, "b s way"]
    inverse: Float64[Tensor, "b way s s"]
    """L_k^-1, where L_k L_k^T = H + D_k."""

    @classmethod
    def at(cls, curvature: Float64[Tensor, "b s s"], point: Optimum) -> "_Newton":
        ratio = point.slack / point.shares
        proximal = _PROXIMAL * curvature.diagonal(dim1=1, dim2=2).amax(dim=1)[:, None, None]
        factor, _ = torch.linalg.cholesky_ex(curvature[:, None] + torch.diag_embed((ratio + proximal).mT))
        one = torch.eye(curvature.shape[1], dtype=curvature.dtype, device=curvature.device)
        return cls(point, ratio, torch.linalg.solve_triangular(factor, one.expand_as(factor), upper=False))

    @cached_property
    def summed(self) -> Float64[Tensor, "b s s"]:
        """Cholesky factor of sum_k (H + D_k)^-1."""
        rows = self.inverse.flatten(1, 2)
        factor: Tensor = torch.linalg.cholesky_ex(rows.mT @ rows)[0]
        return factor

    def direction(self, right: Float64[Tensor, "b s way"]) -> tuple[Tensor, Tensor]:
        """dB and dlevel; linear in `right` and differentiable in it."""
        each = self._apply(right)
        level = -torch.cholesky_solve(each.sum(dim=2, keepdim=True), self.summed)
        return self._apply(right + level), level

    def with_slack(self, right: Float64[Tensor, "b s way"], product: Float64[Tensor, "b s way"]) -> _Direction:
        """dB, dslack and dlevel where slack dB + shares dslack = product."""
        shares, level = self.direction(right + product / self.at_point.shares)
        return shares, product / self.at_point.shares - self.ratio * shares, level

    def _apply(self, right: Float64[Tensor, "b s way"]) -> Float64[Tensor, "b s way"]:
        solved: Tensor = self.inverse.mT @ (self.inverse @ right.mT[:, :, :, None])
        return solved[:, :, :, 0].mT


def _longest(at: Optimum, d_shares: Tensor, d_slack: Tensor) -> Float64[Tensor, "b 1 1"]:
    """The longest step, at most one, that leaves shares and slack at or above zero."""
    shrink = torch.maximum(-d_shares / at.shares, -d_slack / at.slack).amax(dim=(1, 2), keepdim=True)
    return 1 / shrink.clamp_min(1)
