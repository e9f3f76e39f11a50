"""Proto-MAML: MAML whose head starts at the class means."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor

from app.backbones._base import Backbone
from app.learners._base import LearnerSettings
from app.learners._inner_loop import Update, Weights, at_rates, prototype_head, step_shares
from app.learners._rates import HEAD, SecondOrderSettings, StepRates, rates_at, scaled
from app.learners._weights import Features, WeightLearner


@final
@dataclass(frozen=True)
class ProtoMamlSettings(SecondOrderSettings):
    """Settings of `ProtoMaml`."""

    learning_rate: float = field(
        default=0.01,
        metadata={"description": "Inner learning rate of the backbone's weights.", "above": 0.0, "maximum": 1e3},
    )
    head_learning_rate: float = field(
        default=0.01, metadata={"description": "Inner learning rate of the head.", "above": 0.0, "maximum": 1e3}
    )
    temperature: float = field(
        default=1.0,
        metadata={"description": "Sharpness of the prototypes that the head starts at.", "above": 0.0, "maximum": 1e3},
    )


@final
class ProtoMaml(WeightLearner[ProtoMamlSettings]):
    """Starts the head at the class means p, as temperature (2 p x - |p|^2), and descends as MAML does.

    Without a step the scores are those of a Prototypical Network; so any way is served, and the numbering of the
    labels does not matter. In meta-training the gradient flows through that start too.

    State: see `WeightLearner`: the adapted weights and the trace `support_losses`.
    Logits: scores of the adapted head on the embeddings of the adapted backbone; softmax gives probabilities.
    Cost: 1 + 3 * steps passes over the support set; a copy of the weights stored a task.
    Raises: `Diverged`.
    Paper: Triantafillou et al., ICLR 2020, arXiv:1903.03096, section 3, "Proto-MAML"; the settings shared with MAML:
    Antoniou, Edwards, Storkey, ICLR 2019, arXiv:1810.09502.
    Departs from it: the temperature; second order unless `first_order` is set; the rates are meta-trained;
    normalisation never sees a batch (decision record 1).
    """

    paper: ClassVar[str] = "Triantafillou et al., ICLR 2020, arXiv:1903.03096"
    cost: ClassVar[str] = "1 + 3 * steps passes over the support set; a copy of the backbone's weights stored a task"
    Settings: ClassVar[type[LearnerSettings]] = ProtoMamlSettings
    learnable: ClassVar[tuple[str, ...]] = ("learning_rate", "head_learning_rate", "temperature")
    vmaps: ClassVar[bool] = True

    def __init__(self, backbone: Backbone, settings: ProtoMamlSettings) -> None:
        super().__init__(backbone, settings)
        self.rates = StepRates([*self.weights(), *HEAD], settings.training_steps) if settings.learned_rates else None

    @property
    def second_order(self) -> bool:
        """Neither first order for good, nor still."""
        return not self.settings.first_order and self.training_progress >= self.settings.first_order_until

    def query_shares(self, steps: int) -> Sequence[float]:
        """The last step counts; in the beginning the others too, with `multi_step_until`."""
        return step_shares(steps, self.settings.multi_step_until, self.training_progress)

    def begin(self, features: Features, shares: Float[Tensor, "*t s way"]) -> tuple[Weights, Update]:
        """Start at the prototypes, and descend."""
        head = prototype_head(features(), shares, self.value("temperature"))
        return head, self._descent(shares)

    def _descent(self, like: Tensor) -> Update:
        rate, head_rate = (self.value(name).to(like) for name in ("learning_rate", "head_learning_rate"))
        rates = rates_at([*self.weights(), *HEAD], rate, head_rate)
        factors = self.rates
        return at_rates(lambda step: rates if factors is None else scaled(rates, factors(step)))
