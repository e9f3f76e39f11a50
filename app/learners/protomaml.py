"""Proto-MAML: MAML whose head starts at the class means."""

from dataclasses import dataclass, field
from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor

from app.learners._base import LearnerSettings
from app.learners._inner_loop import Update, Weights, prototype_head
from app.learners._rates import SecondOrderLearner, SecondOrderSettings
from app.learners._weights import Features


@final
@dataclass(frozen=True)
class ProtoMamlSettings(SecondOrderSettings):
    """Settings of `ProtoMaml`."""

    head_learning_rate: float = field(
        default=0.01, metadata={"description": "Inner learning rate of the head.", "above": 0.0, "maximum": 1e3}
    )
    temperature: float = field(
        default=1.0,
        metadata={"description": "Sharpness of the prototypes that the head starts at.", "above": 0.0, "maximum": 1e3},
    )


@final
class ProtoMaml(SecondOrderLearner[ProtoMamlSettings]):
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

    def begin(self, features: Features, shares: Float[Tensor, "*t s way"]) -> tuple[Weights, Update]:
        """Start at the prototypes, and descend."""
        head = prototype_head(features(), shares, self.value("temperature"))
        return head, self.descent(shares)
