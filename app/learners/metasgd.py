"""Meta-SGD: MAML with a meta-trained rate for every single weight."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from app.backbones._base import Backbone
from app.learners._base import LearnerSettings
from app.learners._head_units import DESCRIPTION, UNITS, in_units
from app.learners._inner_loop import BIAS, WEIGHT, Update, Weights, at_rates
from app.learners._weights import Features, WeightLearner, WeightSettings


@final
@dataclass(frozen=True)
class MetaSgdSettings(WeightSettings):
    """Settings of `MetaSgd`; its two rates are where the meta-trained ones start."""

    first_order: bool = field(
        default=False, metadata={"description": "Meta-train past the inner gradients instead of through them."}
    )
    head_units: str = field(default="embedding", metadata={"description": DESCRIPTION, "choices": UNITS})


@final
class MetaSgd(WeightLearner[MetaSgdSettings]):
    """Moves every weight at a rate of its own, which meta-training learns along with the weights.

    A step is w <- w - rates * grad L(w), number by number. The head starts at zero and its rates are those of one row
    for all classes, so any way is served and the numbering of the labels does not matter. A backbone that has no dim of
    its own has nothing to learn here, and the head's rate is that of the settings.

    State: see `WeightLearner`: the adapted weights and the trace `support_losses`.
    Logits: scores of the adapted head on the embeddings of the adapted backbone; softmax gives probabilities.
    Cost: steps * 3 passes over the support set; a copy of the weights stored a task, one of rates a checkpoint.
    Raises: `Diverged`.
    Paper: Li, Zhou, Chen, Li, arXiv:1707.09835, eq. 2-3, algorithm 1.
    Departs from it: several steps, with the same rates; all rates start alike (drawn at random there); the head,
    and its `head_units`; normalisation never sees a batch (decision record 1).
    """

    paper: ClassVar[str] = "Li, Zhou, Chen, Li, arXiv:1707.09835 (Meta-SGD)"
    cost: ClassVar[str] = "3 * steps passes over the support set; a copy of the backbone's weights stored a task"
    Settings: ClassVar[type[LearnerSettings]] = MetaSgdSettings
    vmaps: ClassVar[bool] = True

    def __init__(self, backbone: Backbone, settings: MetaSgdSettings) -> None:
        super().__init__(backbone, settings)
        starts = {name: torch.full_like(one, settings.learning_rate) for name, one in self.weights().items()}
        if backbone.dim is not None:
            like = next(backbone.parameters())
            starts[WEIGHT] = like.new_full((backbone.dim,), settings.head_learning_rate)
            starts[BIAS] = like.new_full((1,), settings.head_learning_rate)
        # A parameter's name may hold no dot.
        self.rates = nn.ParameterDict({name.replace(".", "/"): one.detach() for name, one in starts.items()})

    @property
    def head_at_zero(self) -> bool:
        """The head starts at zero."""
        return True

    @property
    def second_order(self) -> bool:
        """Unless set otherwise."""
        return not self.settings.first_order

    def begin(self, features: Features, shares: Float[Tensor, "*t s way"]) -> tuple[Weights, Update]:
        """Start at zero, and descend."""
        rates = self._rates(shares)
        update = at_rates(lambda _: rates)
        update = in_units(self.settings.head_units, update, features, shares, graph=self.second_order)
        return self.zero_head(features, shares), update

    def _rates(self, like: Tensor) -> Mapping[str, Tensor]:
        plain = like.new_full((), self.settings.head_learning_rate)
        return {WEIGHT: plain, BIAS: plain, **{name.replace("/", "."): one for name, one in self.rates.items()}}
