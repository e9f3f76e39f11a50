"""Ridge regression on the labels, in closed form."""

import math
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from app.core.episode import TaskState
from app.learners._base import EmbeddingLearner, EmbeddingSettings, LearnerSettings, one_hot
from app.learners._distance import class_means, groups_by_shot, in_units, spread
from app.learners._folds import fold_products, of_own_fold


@final
@dataclass(frozen=True)
class RidgeSettings(EmbeddingSettings):
    """Settings of `Ridge`."""

    regularisation: float = field(
        default=1.0,
        metadata={
            "description": "Penalty on the weights, in units of the support set's mean squared spread.",
            "minimum": 1e-6,
            "maximum": 1e6,
        },
    )
    scale: float = field(
        default=20.0,
        metadata={"description": "Multiplies the fitted values: higher is surer.", "above": 0.0, "maximum": 1e6},
    )


@final
class Ridge(EmbeddingLearner[RidgeSettings]):
    """Regresses the one-hot labels on the embeddings, and scores a query by the fitted values.

    Minimises sum_i v_i |W (x_i - c) / u - y_i|^2 + regularisation |W|^2, where v_i is the mean shot over the shot of
    i's class, so that every class weighs the same, and one in a balanced set; c, the mean of the class means, carries
    the unpenalised intercept; u is the support set's spread, so that the scale of the embeddings is no matter.

    State: `weights`, float (dim, way), per u; `centre`, float (dim,), in u; `unit`, float (), u in embedding units.
    Logits: `scale` times the fitted values less 1 / way; softmax gives probabilities.
    Cost: one backbone pass; s^3 or dim^3 (the smaller, by Woodbury's identity) to fit; dim * way numbers stored.
    Raises: nothing.
    Paper: Bertinetto, Henriques, Torr, Vedaldi, ICLR 2019, arXiv:1805.08136 (R2D2), eq. 4-6.
    Departs from it: the intercept (a single one for all classes there, which softmax ignores), the class weights v and
    the unit u. As there, `regularisation` and `scale` are meta-learned.
    """

    paper: ClassVar[str] = "Bertinetto et al., ICLR 2019, arXiv:1805.08136 (R2D2)"
    cost: ClassVar[str] = "one pass over the support set; min(s, dim)^3 to fit; way * dim products a query"
    Settings: ClassVar[type[LearnerSettings]] = RidgeSettings
    stacks: ClassVar[bool] = True
    learnable: ClassVar[tuple[str, ...]] = ("regularisation", "scale")

    def fit(self, features: Float[Tensor, "s dim"], labels: Int64[Tensor, " s"], way: int) -> TaskState:
        """Solve the regression in float64."""
        embeddings = self.prepare(features)
        unit = spread(embeddings)
        rows = embeddings.double() / unit.double()
        means, shots = class_means(rows, labels, way)
        centre = means.mean(dim=0)
        noise = self.value("regularisation") * shots[:, 0] * way / len(labels)
        weights = _weights(rows - centre, labels, noise)
        kind = features.dtype
        return {"weights": weights.to(kind), "centre": centre.to(kind), "unit": unit}

    def score(self, state: TaskState, features: Float[Tensor, "*t q dim"]) -> Float[Tensor, "*t q way"]:
        """Fitted values of embedded queries, scaled."""
        rows = in_units(self.prepare(features), state["unit"]) - state["centre"][..., None, :]
        return self.value("scale") * (rows @ state["weights"])

    def cross_validate(
        self, features: Float[Tensor, "s dim"], labels: Int64[Tensor, " s"], way: int, folds: Int64[Tensor, " s"]
    ) -> Float[Tensor, "s way"]:
        """All folds in one batch where the set is small, by the dual; an example that is held out has no part in it."""
        embeddings = self.prepare(features)
        products = fold_products(embeddings, folds, way)
        if products is None:
            return super().cross_validate(features, labels, way, folds)
        kept, targets = products.kept, one_hot(labels, way, products.kept)
        shots = kept @ targets
        noise = self.value("regularisation") * shots * way / kept.sum(dim=1, keepdim=True)
        shares = kept / (way * shots)[:, labels]
        across = shares @ products.gram
        own = (across * shares).sum(dim=1)[:, None, None]
        grams = products.gram - across[:, :, None] - across[:, None] + own
        grams = grams / products.spreads().square()[:, None, None]
        system = grams * kept[:, :, None] * kept[:, None] + torch.diag_embed(torch.where(kept > 0, noise[:, labels], 1))
        dual = torch.cholesky_solve(kept[:, :, None] * (targets - 1 / way), torch.linalg.cholesky(system))
        return of_own_fold(self.value("scale") * (grams @ dual), folds).to(features.dtype)

    def leave_one_out(
        self, features: Float[Tensor, "s dim"], labels: Int64[Tensor, " s"], way: int
    ) -> Float[Tensor, "s way"]:
        """PRESS residuals, with the class weights that remain without the example; the unit u stays."""
        embeddings = self.prepare(features)
        rows = embeddings.double() / spread(embeddings).double()
        means, shots = class_means(rows, labels, way)
        noise = self.value("regularisation") * shots[:, 0] * way / (len(labels) - 1)
        values = _held_out(rows - means.mean(dim=0), labels, noise)
        return (self.value("scale") * (values - 1 / way)).to(features.dtype)


def _weights(
    rows: Float64[Tensor, "s dim"], labels: Int64[Tensor, " s"], noise: Float64[Tensor, " way"]
) -> Float64[Tensor, "dim way"]:
    """W of the regression with noise variance `noise[c]` on class c, its rows centred on the class means' mean."""
    way, each = len(noise), noise[labels][:, None]
    if len(rows) <= rows.shape[1]:
        gram = rows @ rows.T + torch.diag(each[:, 0])
        return rows.T @ torch.cholesky_solve(one_hot(labels, way, rows) - 1 / way, torch.linalg.cholesky(gram))
    inner = rows.T @ (rows / each) + torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device)
    targets = rows.new_zeros(way, rows.shape[1]).index_add(0, labels, rows / each)
    return torch.cholesky_solve(targets.T, torch.linalg.cholesky(inner))


def _held_out(
    rows: Float64[Tensor, "s dim"],
    labels: Int64[Tensor, " s"],
    noise: Float64[Tensor, " way"],
) -> Float64[Tensor, "s way"]:
    """Fitted values of each example without it, by two exact updates of the fit on all.

    With G = rows rows^T + N and P = G^-1 less its part along the intercept, alpha = P y. Lowering the noise of class
    C by k = noise / shot turns P_CC into (I - k P_CC)^-1 P_CC and alpha_C into (I - k P_CC)^-1 alpha_C (Woodbury);
    dropping i from that fit then leaves the residual alpha_i / P_ii (PRESS, Allen 1974).
    A class of one example scores minus infinity.
    """
    way, each = len(noise), noise[labels][:, None]
    targets = one_hot(labels, way, rows)
    alpha = (targets - 1 / way - rows @ _weights(rows, labels, noise)) / each
    factor, dual = _factor(rows, each)
    values = torch.full_like(targets, -math.inf)
    for index in groups_by_shot(labels, way):
        shot = index.shape[1]
        if shot == 1:
            continue
        columns = factor[:, index].movedim(0, 1)
        one = torch.eye(shot, dtype=rows.dtype, device=rows.device)
        variance = noise[labels[index[:, 0]]][:, None, None]
        inner = columns.mT @ columns
        block = (inner if dual else one / variance - inner) - variance**-2 / (1 / each).sum()
        updated = torch.linalg.solve(one - variance / shot * block, torch.cat([block, alpha[index]], dim=2))
        diagonal = updated[:, :, :shot].diagonal(dim1=1, dim2=2)
        values[index] = targets[index] - updated[:, :, shot:] / diagonal[:, :, None]
    return values


def _factor(rows: Float64[Tensor, "s dim"], each: Float64[Tensor, "s 1"]) -> tuple[Float64[Tensor, "k s"], bool]:
    """F with F^T F = G^-1 where s <= dim (then True), else N^-1 - F^T F = G^-1; G = rows rows^T + N, N = diag(each)."""
    if len(rows) <= rows.shape[1]:
        lower = torch.linalg.cholesky(rows @ rows.T + torch.diag(each[:, 0]))
        return torch.linalg.solve_triangular(lower, torch.eye(len(rows)).to(rows), upper=False), True
    weighed = (rows / each).T
    inner = weighed @ rows + torch.eye(rows.shape[1]).to(rows)
    return torch.linalg.solve_triangular(torch.linalg.cholesky(inner), weighed, upper=False), False
