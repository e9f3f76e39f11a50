"""MAML: weights from which a few steps of gradient descent make a classifier."""

from dataclasses import dataclass, field
from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor, nn

from app.backbones._base import Backbone
from app.core.errors import InvalidSetting
from app.learners._base import LearnerSettings
from app.learners._head_units import DESCRIPTION, UNITS, in_units
from app.learners._inner_loop import BIAS, WEIGHT, Update, Weights
from app.learners._rates import SecondOrderLearner, SecondOrderSettings
from app.learners._weights import Features


@final
@dataclass(frozen=True)
class MamlSettings(SecondOrderSettings):
    """Settings of `Maml`."""

    head: str = field(
        default="shared",
        metadata={
            "description": "Where the head starts: one row for all classes (any way), or a meta-trained row a class.",
            "choices": ("shared", "fixed"),
        },
    )
    head_way: int = field(
        default=5, metadata={"description": "How many classes a fixed head has.", "minimum": 2, "maximum": 10_000}
    )
    scale: float = field(
        default=1.0,
        metadata={
            "description": "Multiplies the scores after the last step: higher is surer.",
            "above": 0.0,
            "maximum": 1e6,
        },
    )
    head_units: str = field(default="embedding", metadata={"description": DESCRIPTION, "choices": UNITS})


@final
class Maml(SecondOrderLearner[MamlSettings]):
    """Moves all weights by a few steps of gradient descent on the support set.

    A step is w <- w - rate grad L(w), L the mean cross-entropy of the support set (averaged within each class first,
    which changes nothing in a balanced set). Meta-training differentiates the queries' loss after the steps through
    them, with respect to the backbone and the two rates; with `first_order`, past them (FOMAML).

    The head: "shared" starts all classes at one row, so any way is served and the numbering of the labels does not
    matter. Softmax and its slope see differences between rows only, so that row may be zero and is: meta-training
    could not move an answer by it. The first step then moves the head alone. "fixed" starts at a meta-trained row a
    class, as the paper, and serves `head_way` labels only.

    More steps than in training are welcome; with `learned_rates` they take those of the last trained step.

    State: see `WeightLearner`: the adapted weights and the trace `support_losses`.
    Logits: scores of the adapted head on the embeddings of the adapted backbone; softmax gives probabilities.
    Cost: steps * 3 passes over the support set (9 in second-order training); a copy of the weights stored a task.
    Raises: `Diverged`; `ValueError` for another way than a fixed head's; `InvalidSetting` for a fixed head over a
    backbone without a dim of its own.
    Paper: Finn, Abbeel, Levine, ICML 2017, arXiv:1703.03400, algorithm 2, section 5.2 (first order); `learned_rates`,
    `multi_step_until`, `first_order_until`: Antoniou, Edwards, Storkey, ICLR 2019, arXiv:1810.09502 (MAML++), section
    4; one row for all classes: Ye, Chao, ICLR 2022, arXiv:2106.16245 (UNICORN-MAML).
    Departs from it: the rates are meta-trained, the head's apart from the backbone's, and with `head_units` "support"
    fit embeddings of any scale; the adapted head's scores are multiplied by a meta-trained `scale`, 1 if not set;
    normalisation never sees a batch (decision record 1): the papers' numbers are transductive, ours are not.
    """

    paper: ClassVar[str] = "Finn, Abbeel, Levine, ICML 2017, arXiv:1703.03400; Antoniou et al., arXiv:1810.09502"
    cost: ClassVar[str] = "3 * steps passes over the support set; a copy of the backbone's weights stored a task"
    Settings: ClassVar[type[LearnerSettings]] = MamlSettings
    learnable: ClassVar[tuple[str, ...]] = ("learning_rate", "head_learning_rate", "scale")
    vmaps: ClassVar[bool] = True

    def __init__(self, backbone: Backbone, settings: MamlSettings) -> None:
        super().__init__(backbone, settings)
        if settings.head == "fixed":
            if backbone.dim is None:
                raise InvalidSetting("A backbone whose dim is that of its input has no fixed head.", pointer="/head")
            self.head = nn.Linear(backbone.dim, settings.head_way)
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    @property
    def ways(self) -> tuple[int, int] | None:
        """A fixed head's own way; None otherwise."""
        return (self.settings.head_way,) * 2 if self.settings.head == "fixed" else None

    @property
    def head_at_zero(self) -> bool:
        """The shared head starts at zero."""
        return self.settings.head == "shared"

    def begin(self, features: Features, shares: Float[Tensor, "*t s way"]) -> tuple[Weights, Update]:
        """Start at the meta-trained rows or at zero, and descend."""
        head = self.zero_head(features, shares)
        if self.settings.head == "fixed":
            head = {WEIGHT: self.head.weight.to(shares), BIAS: self.head.bias.to(shares)}
        update = self.descent(shares)
        return head, in_units(self.settings.head_units, update, features, shares, graph=self.second_order)

    def finished(self, weights: Weights) -> Weights:
        """The head times `scale`: a few steps leave it unsure, and rates that make it sure cost accuracy."""
        scale = self.value("scale").to(weights[BIAS])
        return {**weights, WEIGHT: scale * weights[WEIGHT], BIAS: scale * weights[BIAS]}
