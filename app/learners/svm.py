"""A multi-class support vector machine, differentiated through its optimum."""

import math
from dataclasses import dataclass, field
from typing import ClassVar, Final, final

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from app.core.episode import TaskState
from app.core.errors import Invalid
from app.learners._base import EmbeddingLearner, EmbeddingSettings, LearnerSettings, one_hot
from app.learners._distance import class_means, in_units, spread
from app.learners._qp import SimplexQP
from app.learners._qp_large import nearly_optimal_shares

_EXACT_BELOW: Final = 100_000_000
"""way * s^3 up to which a set is fitted exactly; above, second-order steps would take seconds."""

_MOST_VARIABLES: Final = 4_000_000
"""s * way that a fit takes; some 100 bytes each are held meanwhile."""

_NEWTON_STEPS: Final = 15


class TooManyMargins(Invalid):
    """A support set whose programme has more variables than a fit takes."""

    code = "too-many-margins"
    title = "Too large a set for the learner svm"

    def __init__(self, *, examples: int, way: int) -> None:
        super().__init__(
            f"The learner svm takes up to {_MOST_VARIABLES:,} pairs of an example and a label; {examples:,} examples "
            f"of {way:,} labels are {examples * way:,}. Others, such as ridge, take this set.",
            pointer="/support",
        )


@final
@dataclass(frozen=True)
class SVMSettings(EmbeddingSettings):
    """Settings of `SVM`."""

    regularisation: float = field(
        default=0.5,
        metadata={
            "description": "Penalty on the weights, per example of loss and in units of the support's spread; 1 / C.",
            "minimum": 1e-4,
            "maximum": 1e4,
        },
    )
    scale: float = field(
        default=10.0,
        metadata={"description": "Multiplies the margins: higher is surer.", "above": 0.0, "maximum": 1e6},
    )


@final
class SVM(EmbeddingLearner[SVMSettings]):
    """Parts the classes by the widest margins: Crammer and Singer's machine.

    With z = (x - c) / u, where c is the mean of the class means and u the support set's spread, it minimises
    regularisation / 2 |W|^2 + sum_i v_i max_k (1 - [k = y_i] + w_k z_i - w_{y_i} z_i). v_i is the mean shot over the
    shot of i's class, so that every class weighs the same, and one in a balanced set. The dual is solved exactly, by
    second-order steps that keep its structure (`_qp`); the gradient is that of the optimum. Above way * s^3 = 10^8
    (200 examples of 12 labels) a serving fit stops at a duality gap of 10^-5 of the objective; training stays exact.

    State: `weights`, float (dim, way), per u; `centre`, float (dim,), in u; `unit`, float (), u in embedding units.
    Logits: `scale` times W z; softmax gives probabilities.
    Cost: one backbone pass; some 15 steps of way * s^3 products (above the limit some 300 of s^2 * way); dim * way
    numbers stored.
    Raises: `TooManyMargins` for more than 4 million pairs of an example and a label.
    Paper: Lee, Maji, Ravichandran, Soatto, CVPR 2019, arXiv:1904.03758 (MetaOptNet), section 3.3; Crammer and Singer,
    JMLR 2001; the logits' scale is learned as there.
    Departs from it: the centre, the unit and the class weights v; the margin term is not smoothed by a ridge.
    """

    paper: ClassVar[str] = "Lee et al., CVPR 2019, arXiv:1904.03758 (MetaOptNet-SVM)"
    cost: ClassVar[str] = "one pass over the support set; some 15 * way * s^3 to fit; way * dim products a query"
    Settings: ClassVar[type[LearnerSettings]] = SVMSettings
    stacks: ClassVar[bool] = True
    by_name_only: ClassVar[bool] = True
    learnable: ClassVar[tuple[str, ...]] = ("regularisation", "scale")

    def fit(self, features: Float[Tensor, "s dim"], labels: Int64[Tensor, " s"], way: int) -> TaskState:
        """Solve the programme in float64 (a large one, while serving, in float32)."""
        if len(labels) * way > _MOST_VARIABLES:
            raise TooManyMargins(examples=len(labels), way=way)
        embeddings = self.prepare(features)
        unit = spread(embeddings)
        rows = embeddings.double() / unit.double()
        means, shots = class_means(rows, labels, way)
        centre = means.mean(dim=0)
        rows = rows - centre
        costs = (len(labels) / way / shots[:, 0])[labels]
        weights = self._weights(rows, costs, one_hot(labels, way, rows))
        kind = features.dtype
        return {"weights": weights.to(kind), "centre": centre.to(kind), "unit": unit}

    def score(self, state: TaskState, features: Float[Tensor, "*t q dim"]) -> Float[Tensor, "*t q way"]:
        """Scaled linear scores of embedded queries."""
        rows = in_units(self.prepare(features), state["unit"]) - state["centre"][..., None, :]
        return self.value("scale") * (rows @ state["weights"])

    def cross_validate(
        self, features: Float[Tensor, "s dim"], labels: Int64[Tensor, " s"], way: int, folds: Int64[Tensor, " s"]
    ) -> Float[Tensor, "s way"]:
        """All folds in one batch where sets are small; the unit u stays that of the whole set."""
        if way * len(labels) ** 3 > _EXACT_BELOW:
            return super().cross_validate(features, labels, way, folds)
        embeddings = self.prepare(features)
        rows = embeddings.double() / spread(embeddings).double()
        kept = (folds != torch.arange(int(folds.max()) + 1, device=folds.device)[:, None]).to(rows)
        targets = one_hot(labels, way, rows)
        shots = kept @ targets
        costs = kept * (kept.sum(dim=1, keepdim=True) / way / shots)[:, labels]
        grams = _centred(rows @ rows.T, kept / (way * shots[:, labels]))
        penalty = self.value("regularisation")
        programme = SimplexQP(costs[:, :, None] * grams * costs[:, None] / penalty, costs, targets)
        shares = programme.solve().shares
        scores = self.value("scale") / penalty * (grams @ (costs[:, :, None] * (targets - shares)))
        own = scores.gather(0, folds.clamp_min(0)[None, :, None].expand(-1, -1, way))[0]
        return own.masked_fill(folds[:, None] < 0, math.nan).to(features.dtype)

    def held_out_products(self, examples: int, dim: int, way: int, folds: int) -> int:
        """Some 15 steps in each fold, each a factor and an inverse for every class."""
        return folds * _NEWTON_STEPS * way * examples**3 + examples * examples * dim

    def _weights(
        self, rows: Float64[Tensor, "s dim"], costs: Float64[Tensor, " s"], targets: Float64[Tensor, "s way"]
    ) -> Float64[Tensor, "dim way"]:
        penalty = self.value("regularisation")
        if len(rows) ** 3 * targets.shape[1] > _EXACT_BELOW and not (rows.requires_grad or penalty.requires_grad):
            small = (rows / penalty.sqrt()).float()
            shares = nearly_optimal_shares(small, costs.float(), targets.float()).to(rows)
        else:
            weighed = costs[:, None] * rows
            programme = SimplexQP((weighed @ weighed.T / penalty)[None], costs[None], targets)
            optimum = programme.solve()
            shares = programme.differentiable(optimum)[0] if programme.curvature.requires_grad else optimum.shares[0]
        return rows.T @ (costs[:, None] * (targets - shares)) / penalty


def _centred(gram: Float64[Tensor, "s s"], shares: Float64[Tensor, "b s"]) -> Float64[Tensor, "b s s"]:
    """Inner products of the rows less each of `b` centres, a centre being the rows' mean with these shares."""
    across = shares @ gram
    own = (across * shares).sum(dim=1)
    return gram - across[:, :, None] - across[:, None] + own[:, None, None]
