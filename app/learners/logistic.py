"""Multinomial logistic regression, drawn to the class means."""

import math
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from app.core.episode import TaskState
from app.learners._base import EmbeddingLearner, EmbeddingSettings, LearnerSettings
from app.learners._distance import class_means, spread
from app.learners._head_loop import head_scores
from app.learners._softmax_fit import SoftmaxFits

_EXACT_BELOW = 4_000_000
"""Products of a step up to which the fit runs in float64; above, float32 halves the time."""

_TIGHT, _FINE, _COARSE = 1e-6, 3e-4, 2e-2
"""Largest entry of the gradient over a class's weight: of a fit in float64, in float32, and of folds being judged."""


@final
@dataclass(frozen=True)
class LogisticSettings(EmbeddingSettings):
    """Settings of `Logistic`."""

    regularisation: float = field(
        default=0.1,
        metadata={
            "description": "Penalty on leaving the start, per example of loss and in units of the support's spread.",
            "minimum": 1e-4,
            "maximum": 1e6,
        },
    )
    temperature: float = field(
        default=2.0,
        metadata={
            "description": "Sharpness of the prototypes that the weights start at and are drawn to; 0 draws to zero.",
            "minimum": 0.0,
            "maximum": 1e3,
        },
    )


@final
class Logistic(EmbeddingLearner[LogisticSettings]):
    """Softmax regression on the embeddings, started at the prototypes and penalised for leaving them.

    With z = (x - c) / u, where c is the mean of the class means and u the support set's spread, it minimises
    sum_i v_i CE(W z_i + b, y_i) + regularisation / 2 |W - W0|^2. W0, b0 are the prototypes' own linear scores,
    `temperature` (2 p z - |p|^2); v_i is the mean shot over the shot of i's class, so that every class weighs the
    same, and one in a balanced set. The intercept b is not penalised. Where s <= dim the weights' change lies in the
    span of the support set, and the fit runs there (exact, by the representer theorem).

    State: `weights`, float (dim, way), per u; `bias`, float (way,); `centre`, float (dim,), in u; `unit`, float ().
    Logits: W z + b; softmax gives probabilities.
    Cost: one backbone pass; some 20 steps of s * min(s, dim) * way products; dim * way numbers stored.
    Raises: nothing.
    Paper: Chen et al., ICLR 2019, arXiv:1904.04232 (Baseline: a linear softmax head on frozen features), section 3.2.
    Departs from it: to convergence instead of 100 epochs of SGD; the start and the pull to it, which is that of
    Triantafillou et al., ICLR 2020, arXiv:1903.03096 (Proto-MAML, section 4), on the head alone.
    """

    paper: ClassVar[str] = "Chen et al., ICLR 2019, arXiv:1904.04232; start: Triantafillou et al., arXiv:1903.03096"
    cost: ClassVar[str] = "one pass over the support set; some 20 steps of s * min(s, dim) * way products to fit"
    Settings: ClassVar[type[LearnerSettings]] = LogisticSettings
    stacks: ClassVar[bool] = True
    learnable: ClassVar[tuple[str, ...]] = ("regularisation", "temperature")

    def fit(self, features: Float[Tensor, "s dim"], labels: Int64[Tensor, " s"], way: int) -> TaskState:
        """Minimise until the gradient is under a millionth (in float32 3 ten-thousandths) of a class's weight."""
        rows, basis, centre, unit = self._rows(features, labels, way)
        kept = torch.ones(len(labels), 1, dtype=torch.bool, device=labels.device)
        fitted = self._solve(rows, labels, kept, way, _TIGHT)[:, 0].double()
        weights = fitted[:-1] if basis is None else basis @ fitted[:-1]
        kind = features.dtype
        state = {"weights": weights, "bias": fitted[-1], "centre": centre, "unit": unit}
        return {name: tensor.to(kind).contiguous() for name, tensor in state.items()}

    def score(self, state: TaskState, features: Float[Tensor, "*t q dim"]) -> Float[Tensor, "*t q way"]:
        """Linear scores of embedded queries."""
        return head_scores(state, self.prepare(features))

    def cross_validate(
        self, features: Float[Tensor, "s dim"], labels: Int64[Tensor, " s"], way: int, folds: Int64[Tensor, " s"]
    ) -> Float[Tensor, "s way"]:
        """All folds in one batch, to a fiftieth of a class's weight; the unit u stays that of the whole set."""
        rows, _, _, _ = self._rows(features, labels, way)
        kept = folds[:, None] != torch.arange(max(1, int(folds.max()) + 1), device=folds.device)
        fitted = self._solve(rows, labels, kept, way, _COARSE)
        k, b, _ = fitted.shape
        scores = (_with_one(rows).to(fitted.dtype) @ fitted.view(k, b * way)).view(-1, b, way)
        own = scores.gather(1, folds.clamp_min(0)[:, None, None].expand(-1, 1, way))[:, 0]
        return own.masked_fill(folds[:, None] < 0, math.nan).to(features.dtype)

    def held_out_products(self, examples: int, dim: int, way: int, folds: int) -> int:
        """Some 8 steps in each fold, two products each."""
        return 16 * folds * examples * min(examples, dim) * way

    def _rows(
        self, features: Float[Tensor, "s dim"], labels: Int64[Tensor, " s"], way: int
    ) -> tuple[Float64[Tensor, "s k"], Float64[Tensor, "wide k"] | None, Float64[Tensor, " wide"], Float[Tensor, ""]]:
        """The examples as the fit sees them: centred, in units, in a basis of their span where that is smaller."""
        embeddings = self.prepare(features)
        unit = spread(embeddings)
        rows = embeddings.double() / unit.double()
        means, _ = class_means(rows, labels, way)
        centre = means.mean(dim=0)
        rows = rows - centre
        if len(rows) > rows.shape[1] or rows.requires_grad:  # centred rows lack a rank, where QR has no gradient
            return rows, None, centre, unit
        basis, lower = torch.linalg.qr(rows.T)
        return lower.T, basis, centre, unit

    def _solve(
        self,
        rows: Float64[Tensor, "s k"],
        labels: Int64[Tensor, " s"],
        kept: Bool[Tensor, "s b"],
        way: int,
        tolerance: float,
    ) -> Float[Tensor, "j b way"]:
        """Weights (and, last, intercept) of a fit on each column of `kept`."""
        present = kept.to(rows)
        shots = rows.new_zeros(way, kept.shape[1]).index_add(0, labels, present)
        share = present.sum(dim=0) / way / shots.clamp_min(1)
        sums = rows.new_zeros(way, kept.shape[1], rows.shape[1])
        prototypes = sums.index_add(0, labels, rows[:, None] * present[:, :, None]) / shots.clamp_min(1)[:, :, None]
        heat = self.value("temperature")
        start = torch.cat([2 * heat * prototypes, -heat * prototypes.square().sum(2, keepdim=True)], dim=2)
        small = rows.numel() * way * kept.shape[1] <= _EXACT_BELOW
        kind = torch.float64 if small else torch.float32
        goal = (tolerance if small else max(tolerance, _FINE)) * len(labels) / way
        fits = SoftmaxFits(
            rows=_with_one(rows).to(kind),
            labels=labels,
            weights=(present * share[labels]).to(kind),
            start=start.permute(2, 1, 0).to(kind).contiguous(),
            penalty=self.value("regularisation"),
        )
        with torch.no_grad():
            change = fits.detached().minimise(goal)
        return fits.start + (fits.differentiable(change) if fits.start.requires_grad else change)


def _with_one(rows: Float64[Tensor, "s k"]) -> Float64[Tensor, "s j"]:
    return torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)
