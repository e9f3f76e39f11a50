"""ANIL: an inner loop on the head alone."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from app.backbones._base import Backbone
from app.core.episode import Episode, TaskState
from app.core.errors import InvalidSetting
from app.core.heartbeat import beat_now
from app.learners._base import EmbeddingLearner, EmbeddingSettings, LearnerSettings, one_hot
from app.learners._head_loop import Head, HeadTask, Stacked, embedded, head_scores, held_out_scores
from app.learners._rates import StepRates


@final
@dataclass(frozen=True)
class AnilSettings(EmbeddingSettings):
    """Settings of `Anil`."""

    steps: int = field(
        default=10, metadata={"description": "Inner steps when a task is adapted.", "minimum": 0, "maximum": 1000}
    )
    training_steps: int = field(
        default=5, metadata={"description": "Inner steps during meta-training.", "minimum": 1, "maximum": 100}
    )
    learning_rate: float = field(
        default=1.0,
        metadata={"description": "Inner learning rate, for embeddings in units.", "above": 0.0, "maximum": 1e3},
    )
    learned_rates: bool = field(
        default=False,
        metadata={"description": "Meta-train a rate of the weights and of the intercepts at each step (LSLR)."},
    )
    first_order: bool = field(
        default=False, metadata={"description": "Meta-train past the inner gradients instead of through them."}
    )
    head: str = field(
        default="shared",
        metadata={
            "description": "Where the head starts: one row for all classes (any way), prototypes, or a row a class.",
            "choices": ("shared", "prototypes", "fixed"),
        },
    )
    temperature: float = field(
        default=1.0,
        metadata={"description": "Sharpness of the prototypes a head starts at.", "above": 0.0, "maximum": 1e3},
    )
    head_way: int = field(
        default=5, metadata={"description": "How many classes a fixed head has.", "minimum": 2, "maximum": 10_000}
    )


@final
class Anil(EmbeddingLearner[AnilSettings]):
    """Moves a linear head by a few steps of gradient descent on the support set; the backbone stays.

    With z = (x - c) / u, where c is the mean of the class means and u the support set's spread, a step is
    W <- W - rate grad L(W), L the sum over the classes of the mean cross-entropy of their examples. Meta-training
    differentiates the queries' loss through the steps, to the backbone, the rates and what the head starts at.

    `head`: "shared" starts all classes at one row, so any way is served and the numbering of the labels does not
    matter; softmax and its gradient see differences between rows only, so that row may be zero and is. "prototypes"
    starts at the linear scores of the class means, and serves any way too. "fixed" starts at a meta-trained row a
    class, as the paper, and serves `head_way` classes alone.

    More steps than in training are welcome; with `learned_rates` they take those of the last trained step.

    State: `weights`, float (dim, way), per u; `bias`, float (way,); `centre`, float (dim,), in u; `unit`, float ();
    `support_losses`, float (steps + 1,), the support set's mean cross-entropy before each step and at the end, in nats.
    Logits: W z + b; softmax gives probabilities.
    Cost: one backbone pass; steps * s * dim * way products, twice; dim * way numbers stored.
    Raises: `ValueError` by `fit` for another way than a fixed head's; `InvalidSetting` for a fixed head over a
    backbone without a dim of its own.
    Paper: Raghu, Raghu, Bengio, Vinyals, ICLR 2020, arXiv:1909.09157, section 4 (ANIL; the unnumbered update);
    first order: Finn, Abbeel, Levine, ICML 2017, arXiv:1703.03400, section 5.2; a rate for each step: Antoniou,
    Edwards, Storkey, ICLR 2019, arXiv:1810.09502 (LSLR).
    Departs from it: the unit of length and the centre; the sum over classes, which is the mean at `way` times the rate;
    heads for any way.
    """

    paper: ClassVar[str] = "Raghu et al., ICLR 2020, arXiv:1909.09157"
    cost: ClassVar[str] = "one pass over the support set; 2 * steps * s * dim * way products to fit"
    Settings: ClassVar[type[LearnerSettings]] = AnilSettings
    stacks: ClassVar[bool] = True
    by_name_only: ClassVar[bool] = True
    learnable: ClassVar[tuple[str, ...]] = ("learning_rate", "temperature")
    vmaps: ClassVar[bool] = True

    def __init__(self, backbone: Backbone, settings: AnilSettings) -> None:
        super().__init__(backbone, settings)
        self.rates = StepRates(Head._fields, settings.training_steps) if settings.learned_rates else None
        if settings.head == "fixed":
            dim = settings.projection or backbone.dim
            if dim is None:
                raise InvalidSetting("A backbone whose dim is that of its input has no fixed head.", pointer="/head")
            self.head = nn.Linear(dim, settings.head_way)
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    @property
    def ways(self) -> tuple[int, int] | None:
        """A fixed head's own way; None otherwise."""
        return (self.settings.head_way,) * 2 if self.settings.head == "fixed" else None

    def fit(self, features: Float[Tensor, "s dim"], labels: Int64[Tensor, " s"], way: int) -> TaskState:
        """Take the steps in float64; in training mode the graph is kept."""
        if self.settings.head == "fixed" and way != self.settings.head_way:
            raise ValueError(f"The head has {self.settings.head_way} classes; {way} given.")
        with torch.set_grad_enabled(self.training and torch.is_grad_enabled()):
            embeddings = self.prepare(features)
            return self._fitted(embeddings, one_hot(labels, way, embeddings))

    def score(self, state: TaskState, features: Float[Tensor, "*t q dim"]) -> Float[Tensor, "*t q way"]:
        """Linear scores of embedded queries."""
        return head_scores(state, self.prepare(features))

    def vmapped_loss(self, episodes: Sequence[Episode]) -> Float[Tensor, ""]:
        """Mean `episode_loss` of episodes of equal shapes, their heads side by side."""
        return self.vmapped_feature_loss(embedded(self.backbone, episodes))

    def vmapped_feature_loss(self, episodes: Sequence[Episode]) -> Float[Tensor, ""]:
        """`vmapped_loss` of episodes whose inputs are embeddings already."""
        return Stacked.of(self.prepare, episodes).query_loss(self._fitted)

    @torch.no_grad()
    def cross_validate(
        self, features: Float[Tensor, "s dim"], labels: Int64[Tensor, " s"], way: int, folds: Int64[Tensor, " s"]
    ) -> Float[Tensor, "s way"]:
        """All folds side by side."""
        return held_out_scores(self._fitted, self.prepare(features), labels, way, folds)

    def held_out_products(self, examples: int, dim: int, way: int, folds: int) -> int:
        """Two products a step in each fold."""
        return 2 * folds * (self.settings.steps + 1) * examples * dim * way

    def _fitted(self, embeddings: Float[Tensor, "s dim"], targets: Float[Tensor, "s way"]) -> dict[str, Tensor]:
        """The inner loop; safe under `vmap`."""
        task = HeadTask.of(embeddings, targets)
        head = self._start(task)
        losses = [task.loss(head)]
        for step in range(self.settings.training_steps if self.training else self.settings.steps):
            slope = task.slope(head)
            if self.settings.first_order:
                slope = slope.detached()
            rates = self._rates(step)
            head = Head(head.weights - rates.weights * slope.weights, head.bias - rates.bias * slope.bias)
            losses.append(task.loss(head))
            beat_now()
        return task.state(head, losses, embeddings.dtype)

    def _start(self, task: HeadTask) -> Head:
        # Where no prototypes are wanted the temperature stays in the graph, with a gradient of zero: data parallel
        # training wants every parameter there.
        head = task.prototype_head(self.value("temperature") * (self.settings.head == "prototypes"))
        if self.settings.head != "fixed":
            return head
        return Head(head.weights + self.head.weight.T.to(task.rows), head.bias + self.head.bias.to(task.rows))

    def _rates(self, step: int) -> Head:
        """The rates of the weights and of the intercepts at a step."""
        rate = self.value("learning_rate")
        if self.rates is None:
            return Head(rate, rate)
        return Head(**{name: rate * factor.double() for name, factor in self.rates(step).items()})
