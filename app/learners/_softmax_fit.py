"""Fits several weighted softmax regressions on the same examples at once, by L-BFGS."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

_MEMORY = 6  # curvature pairs kept; Liu and Nocedal 1989 advise 3 to 7
_HALVINGS = 40
_SUFFICIENT = 1e-4
_DIRECT = 1500
"""Unknowns of a problem up to which its Hessian is factored; above, conjugate gradients."""
_HELD = 20_000_000
"""Numbers that making the Hessian may hold at a time."""

_Pairs = list[tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class SoftmaxFits:
    """`b` problems: minimise sum_i weights_bi CE(rows_i (start_b + D_b), label_i) + penalty / 2 |D_b|^2 over D_b.

    The last column of `rows` is one, and the last row of D, the intercept, is not penalised. The problems lie side by
    side, so that one matrix product serves them all. Convex, and strictly so in the weights: one minimum.
    """

    rows: Float[Tensor, "s k"]
    labels: Int64[Tensor, " s"]
    weights: Float[Tensor, "s b"]
    start: Float[Tensor, "k b way"]
    penalty: Float64[Tensor, ""]

    @cached_property
    def targets(self) -> Float[Tensor, "s 1 way"]:
        """One where a row's label is, zero elsewhere."""
        return torch.nn.functional.one_hot(self.labels, self.start.shape[2]).to(self.start)[:, None]

    def value_and_slope(
        self, change: Float[Tensor, "k b way"]
    ) -> tuple[Float[Tensor, "1 b 1"], Float[Tensor, "k b way"]]:
        """The objective of each problem at D, and its gradient."""
        k, b, way = change.shape
        scores = (self.rows @ (self.start + change).view(k, b * way)).view(-1, b, way)
        logs = scores.log_softmax(dim=2)
        index = self.labels[:, None, None].expand(-1, b, 1)
        penalised = self.penalty * change
        penalised[-1] = 0
        cross_entropy = (self.weights * logs.gather(2, index)[:, :, 0]).sum(0)[None, :, None]
        residual = logs.exp() - self.targets
        slope = self.rows.T @ (residual * self.weights[:, :, None]).view(-1, b * way)
        return _dot(penalised, change) / 2 - cross_entropy, slope.view(k, b, way).add_(penalised)

    def minimise(self, tolerance: float, limit: int = 500) -> Float[Tensor, "k b way"]:
        """D of each problem, to where no entry of its gradient exceeds `tolerance`.

        Deterministic. Raises nothing: after `limit` steps, or where rounding leaves nothing to gain, it is what has
        been reached.
        """
        scaling = self._scaling()
        change = torch.zeros_like(self.start)
        value, slope = self.value_and_slope(change)
        pairs: _Pairs = []
        for _ in range(limit):
            active = slope.abs().amax(dim=(0, 2), keepdim=True) > tolerance
            if not bool(active.any()):
                break
            moved = self._step(change, value, slope, _direction(slope, pairs, scaling) * active)
            if moved is None:
                break
            new_change, new_value, new_slope = moved
            pairs = [*pairs[1 - _MEMORY :], _pair(new_change - change, new_slope - slope)]
            change, value, slope = new_change, new_value, new_slope
        return change

    def differentiable(self, change: Float[Tensor, "k b way"]) -> Float[Tensor, "k b way"]:
        """The same D, tied to `rows`, `start` and `penalty` for autograd by the implicit function theorem.

        At the minimum g(D, rows, ...) = 0, so dD = -H^-1 dg, H the Hessian: the backward pass solves one system.
        """
        _, slope = self.value_and_slope(change)
        implicit: Callable[..., Tensor] = _Implicit.apply
        return change - implicit(slope, lambda outer: self._solve_hessian(change, outer))

    def detached(self) -> "SoftmaxFits":
        """The same problems, cut off from autograd."""
        return replace(self, rows=self.rows.detach(), start=self.start.detach(), penalty=self.penalty.detach())

    @torch.no_grad()
    def _solve_hessian(self, change: Tensor, right: Tensor) -> Tensor:
        """H^-1 right, each problem for itself.

        H's null space, intercepts that move together, moves no probability: what rounding left of `right` in it goes.
        """
        k, b, way = change.shape
        right = torch.cat([right[:-1], right[-1:] - right[-1:].mean(dim=2, keepdim=True)])
        chances = (self.rows @ (self.start + change).view(k, b * way)).view(-1, b, way).softmax(dim=2)
        small = k * way <= _DIRECT and len(self.rows) * (k * k + b * way * way) <= _HELD
        return (self._factored if small else self._conjugate)(chances, right)

    def _factored(self, chances: Float[Tensor, "s b way"], right: Float[Tensor, "k b way"]) -> Float[Tensor, "k b way"]:
        """By Cholesky in float64; the null space is filled, and what curves next to nothing is kept from zero."""
        k, b, way = right.shape
        weighed, rows = (chances * self.weights[:, :, None]).double(), self.rows.double()
        bends = torch.diag_embed(weighed) - weighed[:, :, :, None] * chances[:, :, None]
        squares = rows[:, :, None] * rows[:, None]
        hessian = (bends.flatten(1).T @ squares.flatten(1)).view(b, way, way, k, k).permute(0, 3, 1, 4, 2)
        hessian = hessian.reshape(b, k * way, k * way)
        hessian[:, -way:, -way:] += hessian.diagonal(dim1=1, dim2=2)[:, -way:].mean(dim=1)[:, None, None]
        diagonal = hessian.diagonal(dim1=1, dim2=2)
        diagonal[:, :-way] += self.penalty
        diagonal += k * way * torch.finfo(hessian.dtype).eps * diagonal.amax(dim=1, keepdim=True)
        across = right.double().movedim(1, 0).reshape(b, k * way, 1)
        solved = torch.cholesky_solve(across, torch.linalg.cholesky(hessian))
        return solved.view(b, k, way).movedim(0, 1).to(right)

    def _conjugate(
        self, chances: Float[Tensor, "s b way"], right: Float[Tensor, "k b way"]
    ) -> Float[Tensor, "k b way"]:
        """By conjugate gradients, to where rounding lets a problem come no nearer."""
        k, b, way = right.shape
        answer, rest = torch.zeros_like(right), right
        towards, size = rest * self._scaling(), _dot(rest, rest * self._scaling())
        goal = size * torch.finfo(right.dtype).eps ** 1.5  # a residual of eps^0.75: further, rounding leads it astray
        for _ in range(4 * k * way):
            if bool((size <= goal).all()):
                break
            seen = (self.rows @ towards.view(k, b * way)).view(-1, b, way)
            seen = chances * (seen - (chances * seen).sum(dim=2, keepdim=True)) * self.weights[:, :, None]
            bent = (self.rows.T @ seen.view(-1, b * way)).view(k, b, way)
            bent[:-1] += self.penalty * towards[:-1]
            curvature = _dot(towards, bent)
            bends = curvature > torch.finfo(right.dtype).eps * _dot(towards, towards / self._scaling())
            step = torch.where(bends, size / curvature, torch.zeros_like(size))
            answer, rest = answer + step * towards, rest - step * bent
            new_size = _dot(rest, rest * self._scaling())
            towards = rest * self._scaling() + new_size / size.clamp_min(torch.finfo(right.dtype).tiny) * towards
            size = torch.where(bends, new_size, torch.zeros_like(size))
        return answer

    def _scaling(self) -> Float[Tensor, "k 1 1"]:
        """Inverse of a bound on the curvature: p (1 - p) <= 1/4 times one example, or, in the intercept, a class."""
        curvature = torch.full_like(self.start[:, :1, :1], float(self.penalty) + 0.25)
        curvature[-1] = 0.25 * max(1.0, len(self.rows) / self.start.shape[2])
        return 1 / curvature

    def _step(
        self, change: Tensor, value: Tensor, slope: Tensor, direction: Tensor
    ) -> tuple[Tensor, Tensor, Tensor] | None:
        """Armijo backtracking, each problem with a step of its own. None where no problem can be lowered further."""
        descent = _dot(slope, direction)
        step = torch.ones_like(value)
        rounding = 8 * torch.finfo(value.dtype).eps * value.abs()
        for _ in range(_HALVINGS):
            trial = change + step * direction
            new_value, new_slope = self.value_and_slope(trial)
            short = new_value > value + _SUFFICIENT * step * descent + rounding
            if not bool(short.any()):
                return trial, new_value, new_slope
            step = torch.where(short, step / 2, step)
        return None


def _dot(a: Float[Tensor, "k b way"], b: Float[Tensor, "k b way"]) -> Float[Tensor, "1 b 1"]:
    return (a * b).sum(dim=(0, 2), keepdim=True)


def _pair(moved: Tensor, bent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A step, the change of the gradient along it, and the inverse of their product (0 where it stood still)."""
    product = _dot(moved, bent)
    return moved, bent, torch.where(product > 0, 1 / product, torch.zeros_like(product))


def _direction(slope: Tensor, pairs: _Pairs, scaling: Tensor) -> Tensor:
    """Two-loop recursion (Nocedal 1980): minus the inverse curvature times the gradient."""
    rest = slope
    parts: list[Tensor] = []
    for moved, bent, inverse in reversed(pairs):
        parts.append(_dot(moved, rest) * inverse)
        rest = torch.addcmul(rest, parts[-1], bent, value=-1)
    rest = rest * scaling
    if pairs:
        _, bent, inverse = pairs[-1]
        stretch = inverse * _dot(bent, bent * scaling)
        rest = rest / torch.where(stretch > 0, stretch, torch.ones_like(stretch))
    for (moved, bent, inverse), part in zip(pairs, reversed(parts), strict=True):
        rest = torch.addcmul(rest, part - _dot(bent, rest) * inverse, moved)
    return -rest


class _Implicit(torch.autograd.Function):
    """Zero, whose gradient is that of H^-1 slope."""

    @staticmethod
    def forward(ctx: Any, slope: Tensor, solve: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.solve = solve
        return torch.zeros_like(slope)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None]:
        solved: Tensor = ctx.solve(outer[0])
        return solved, None
