"""The nearest class mean, each class measuring by its own covariance."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, final

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from app.core.episode import TaskState
from app.learners._base import EmbeddingLearner, EmbeddingSettings, LearnerSettings
from app.learners._distance import LOGIT_LIMIT, class_means, groups_by_shot, in_units, spread

_NOTHING: Final = 1e-12
"""The share of the largest variance under which an axis holds none."""

_SAME: Final = 1e-10
"""The share of the largest variance within which two axes cannot be told apart."""


@final
@dataclass(frozen=True)
class MahalanobisSettings(EmbeddingSettings):
    """Settings of `Mahalanobis`."""

    regularisation: float = field(
        default=0.1,
        metadata={
            "description": "Variance added along every axis, in units of the support's squared spread: the more, the "
            "nearer to plain distances.",
            "minimum": 1e-5,
            "maximum": 1e6,
        },
    )
    temperature: float = field(
        default=10.0,
        metadata={"description": "Multiplies the squared distances: higher is surer.", "above": 0.0, "maximum": 1e6},
    )


@final
class Mahalanobis(EmbeddingLearner[MahalanobisSettings]):
    """Scores a query by its distance to each class mean, in the metric of that class's covariance.

    Q_k = I + (l_k S_k + (1 - l_k) S) / (regularisation u^2), where S_k and S are the covariances of class k and of the
    whole support set, l_k = shot_k / (shot_k + 1), and u, the set's spread, is the unit of length. With strong
    regularisation it is `protonet` with relative distances. Everything happens along the principal axes of the support
    set: S is diagonal there, S_k has rank shot_k - 1 (Woodbury's identity), and what lies off them is as far from every
    class. So no (dim, dim) matrix is stored.

    State: `axes`, float (dim, m), m = min(s, dim); `centre`, float (dim,), in u; `means` and `variances`, float
    (way, m); `factors`, float (s, m), of the covariances S_k; `labels`, int64 (s,); `unit`, float (), u.
    Logits: minus `temperature` times the squared distance in u; softmax gives probabilities.
    Cost: one backbone pass; m^3 to fit; (dim + s + 2 way) m numbers stored; as many products a query.
    Raises: nothing.
    Paper: Bateni, Goyal, Masrani, Wood, Sigal, CVPR 2020, arXiv:1912.03432 (Simple CNAPS), eq. 2-5.
    Departs from it: what the paper adds is I, to embeddings whose scale is learned; here it is `regularisation` u^2 I,
    and Q_k is divided by it. With regularisation 1 / u^2 and temperature 1 / 2 the logits are the paper's.
    """

    paper: ClassVar[str] = "Bateni et al., CVPR 2020, arXiv:1912.03432 (Simple CNAPS)"
    cost: ClassVar[str] = "one pass over the support set; min(s, dim)^3 to fit; (dim + s + 2 way) min(s, dim) stored"
    Settings: ClassVar[type[LearnerSettings]] = MahalanobisSettings
    stacks: ClassVar[bool] = True
    learnable: ClassVar[tuple[str, ...]] = ("regularisation", "temperature")

    def fit(self, features: Float[Tensor, "s dim"], labels: Int64[Tensor, " s"], way: int) -> TaskState:
        """Find the axes and, along them, what each class's covariance adds; in float64."""
        embeddings = self.prepare(features)
        unit = spread(embeddings)
        wide = embeddings.double() / unit.double()
        centre = wide.mean(dim=0)
        axes, squares = _principal_axes(wide - centre)
        inside = (wide - centre) @ axes
        means, shots = class_means(inside, labels, way)
        added = self.value("regularisation")
        shared = 1 + squares / max(1, len(labels) - 1) / (shots + 1) / added
        weights = shots / (shots + 1) / (shots - 1).clamp_min(1) / added
        deviations = (inside - means[labels]) * weights[labels].sqrt()
        factors = _factors(deviations, labels, shared)
        state = {"axes": axes, "centre": centre, "means": means, "variances": shared, "factors": factors, "unit": unit}
        return {name: one.to(features.dtype).contiguous() for name, one in state.items()} | {"labels": labels}

    def score(self, state: TaskState, features: Float[Tensor, "*t q dim"]) -> Float[Tensor, "*t q way"]:
        """Logits of embedded queries."""
        rows = in_units(self.prepare(features), state["unit"]) - state["centre"][..., None, :]
        inside = (rows @ state["axes"]).double()
        means, weights, factors = state["means"].double(), 1 / state["variances"].double(), state["factors"].double()
        offsets = (weights * means.square()).sum(dim=-1)
        plain = inside.square() @ weights.mT - 2 * inside @ (weights * means).mT + offsets[..., None, :]
        own = means.take_along_dim(state["labels"][..., None], dim=-2)
        along = inside @ factors.mT - (factors * own).sum(dim=-1)[..., None, :]
        saved = torch.zeros_like(plain).scatter_add(-1, state["labels"][..., None, :].expand_as(along), along.square())
        distances = (plain - saved).clamp_min(0)
        return (-self.value("temperature") * distances).clamp_min(-LOGIT_LIMIT).to(features.dtype)

    def held_out_products(self, examples: int, dim: int, way: int, folds: int) -> int:
        """A Gram matrix, its eigenvectors (some 9 m^3), the factors and the scores, in each fold."""
        axes = min(examples, dim)
        return folds * (2 * examples * axes * dim + 9 * axes**3 + examples * axes * (examples + way))


def _principal_axes(rows: Float64[Tensor, "s dim"]) -> tuple[Float64[Tensor, "dim m"], Float64[Tensor, " m"]]:
    """Orthonormal axes of the rows' span, m = min(s, dim), and the sum of squares along each.

    An axis along which there is nothing is zero.
    """
    if len(rows) > rows.shape[1]:
        squares, axes = _eigen(rows.T @ rows)
        return axes, squares.clamp_min(0)
    squares, mixes = _eigen(rows @ rows.T)
    holds = squares > _NOTHING * squares[-1].clamp_min(torch.finfo(squares.dtype).tiny)
    safe = torch.where(holds, squares, torch.ones_like(squares))
    return rows.T @ (mixes * (holds / safe.sqrt())), torch.where(holds, squares, torch.zeros_like(squares))


def _factors(
    deviations: Float64[Tensor, "s m"], labels: Int64[Tensor, " s"], shared: Float64[Tensor, "way m"]
) -> Float64[Tensor, "s m"]:
    """F with Q_k^-1 = T_k^-1 - F_k^T F_k, where Q_k = T_k + U_k^T U_k, T_k = diag(shared_k).

    U_k are the deviations of class k's examples and F_k its rows of F: F_k = L^-1 U T^-1, L L^T = I + U T^-1 U^T.
    """
    factors = torch.zeros_like(deviations)
    for index in groups_by_shot(labels, len(shared)):
        block, scaled = deviations[index], deviations[index] / shared[labels[index]]
        one = torch.eye(index.shape[1], dtype=block.dtype, device=block.device)
        lower = torch.linalg.cholesky(one + scaled @ block.mT)
        solved = torch.linalg.solve_triangular(lower, scaled, upper=False)
        factors = factors.index_copy(0, index.flatten(), solved.flatten(0, 1))
    return factors


def _eigen(matrix: Float64[Tensor, "n n"]) -> tuple[Float64[Tensor, " n"], Float64[Tensor, "n n"]]:
    eigen: Callable[[Tensor], tuple[Tensor, Tensor]] = _Eigen.apply
    return eigen(matrix)


class _Eigen(torch.autograd.Function):
    """Eigenvalues and eigenvectors of a symmetric matrix, for uses that no choice among alike eigenvectors changes.

    Their derivative along a turn within an eigenspace is then zero times infinity, where torch's own gives NaN;
    here it is zero. So a support set with repeated examples, whose null space has several axes, has a gradient.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(matrix)
        ctx.save_for_backward(values, vectors)
        return values, vectors

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Tensor:
        values, vectors = ctx.saved_tensors
        apart = values - values[:, None]
        alike = apart.abs() <= _SAME * values.abs().amax()
        turns = (vectors.T @ outer[1]) / torch.where(alike, torch.ones_like(apart), apart)
        inner = turns.masked_fill(alike, 0) + torch.diag(outer[0])
        found: Tensor = vectors @ (inner + inner.T) @ vectors.T / 2
        return found
