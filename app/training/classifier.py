"""What the stages of classification minimise: one classifier over all training classes, taught or not.

Pretraining as RFS (Tian et al., ECCV 2020, arXiv:2003.11539, eq. 2) and Meta-Baseline (Chen et al., ICCV 2021,
arXiv:2003.04390) do it; the few-shot learner then works on the embeddings.
"""

from collections.abc import Mapping
from typing import final

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor, nn
from torch.nn import functional

from app.backbones._base import Backbone
from app.training.embedding import trimmed, widened
from app.training.errors import BadRecipe
from app.training.objective import Objective, changed, seeded
from app.training.parallel import Ranks
from app.training.recipe import Classes, Distillation, Stage
from app.training.sampler import Pool, episode_generator

_EPOCHS_FROM = 2**31
"""Where the numbers of epochs begin among those of streams; below are the numbers of steps."""

_FIRST_SCALE = 10.0
_TURNS = 4


@final
class CosineHead(nn.Module):
    """Class scores by cosine: a learned scale times the cosine of the embedding and each class's weight."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, dim) / dim**0.5)
        self.scale = nn.Parameter(torch.tensor(_FIRST_SCALE))

    def forward(self, features: Float[Tensor, "n dim"]) -> Float[Tensor, "n classes"]:
        """Score embeddings."""
        rows = functional.normalize(features, dim=1) @ functional.normalize(self.weight, dim=1).T
        return self.scale * rows


@final
class ClassesObjective(Objective):
    """Cross-entropy over all training classes; with a teacher, partly its opinion instead of the labels.

    A step's batch is the next of a shuffled pass over the pool; a pass drops what does not fill a batch. Each rank
    takes its rows of it; batch normalisation takes its statistics from those alone.
    """

    unit = "examples"

    def __init__(self, backbone: Backbone, pool: Pool, stage: Stage, seed: int, ranks: Ranks) -> None:
        super().__init__(stage, seed, ranks)
        self.plan = stage.classes or Classes()
        if backbone.dim is None:
            raise BadRecipe("A backbone without a dim of its own has no weights that a classifier could train.")
        self._check_images(pool)
        self.backbone = backbone
        classes = len(pool.names)
        self.head: nn.Module = (
            CosineHead(backbone.dim, classes) if self.plan.head == "cosine" else nn.Linear(backbone.dim, classes)
        )
        self.turn_head = nn.Linear(classes, _TURNS) if self.plan.rotation_weight else None
        self.pool = pool
        self.labels = pool.labels.to(ranks.device)
        self.per_step = min(self.plan.batch, len(pool.labels))
        self._teacher: tuple[ClassesObjective, ...] = ()  # in a tuple, so that it is no part of this module
        self._order: tuple[int, Tensor] | None = None

    @property
    def network(self) -> Backbone:
        """The backbone, without the classifier."""
        return self.backbone

    def own_parameters(self) -> list[nn.Parameter]:
        """The scale of a cosine head."""
        return [self.head.scale] if isinstance(self.head, CosineHead) else []

    def learn_from(self, teacher: "ClassesObjective") -> None:
        """Take a trained classifier as the teacher; it is not changed."""
        self._teacher = (teacher.eval().requires_grad_(False),)

    def parts(self, step: int) -> list[list[int]]:
        """The batch of the step, in one part."""
        return [[step]]

    def forward(self, numbers: list[int]) -> Float[Tensor, ""]:
        """The loss of this rank's rows of a batch."""
        (step,) = numbers
        generator = episode_generator(self.seed, step)
        rows = self._rows(step)
        # Each example may become another class's where that is wanted: it is a class of its own here.
        inputs = changed(self.pool.take(rows).to(self.ranks.device)[:, None], self.stage.augmentation, generator)[:, 0]
        mine = torch.tensor(self.ranks.share(range(len(rows))))
        inputs, labels = inputs[mine.to(inputs.device)], self.labels[rows[mine].to(self.labels.device)]
        with seeded(generator, self.ranks.device):
            return self._loss(inputs, labels) * (len(mine) * self.ranks.world / len(rows))

    def scores(self, inputs: Shaped[Tensor, "n ..."]) -> Float[Tensor, "n classes"]:
        """Class scores."""
        with self.autocast():
            features = self.backbone(trimmed(self.backbone, inputs))
        found: Tensor = self.head(widened(features))
        return found

    def _loss(self, inputs: Tensor, labels: Int64[Tensor, " n"]) -> Tensor:
        weight = self.plan.rotation_weight
        if weight:
            inputs = torch.cat([inputs.rot90(turn, (2, 3)) for turn in range(_TURNS)])
            turns = torch.arange(_TURNS, device=labels.device).repeat_interleave(len(labels))
            labels = labels.repeat(_TURNS)
        scores = self.scores(inputs)
        loss = functional.cross_entropy(scores, labels, label_smoothing=self.plan.label_smoothing)
        for teacher in self._teacher:
            how = self.stage.distillation or Distillation()
            with torch.no_grad():
                wanted = teacher.scores(inputs)
            loss = how.soft_share * soft_loss(scores, wanted, how.temperature) + (1 - how.soft_share) * loss
        if self.turn_head is not None:
            loss = loss + weight * functional.cross_entropy(self.turn_head(scores), turns)
        return loss

    def _rows(self, step: int) -> Int64[Tensor, " n"]:
        """The rows of a step's batch."""
        each = len(self.pool.labels) // self.per_step
        epoch, place = divmod(step, each)
        if self._order is None or self._order[0] != epoch:
            generator = episode_generator(self.seed, _EPOCHS_FROM + epoch)
            self._order = epoch, torch.randperm(len(self.pool.labels), generator=generator)
        return self._order[1][place * self.per_step : (place + 1) * self.per_step]

    def _check_images(self, pool: Pool) -> None:
        square = pool.inputs.ndim == 4 and pool.inputs.shape[2] == pool.inputs.shape[3]
        if self.plan.rotation_weight and not square:
            raise BadRecipe("rotation_weight turns square images; the data are something else.")


def soft_loss(
    scores: Float[Tensor, "n classes"], wanted: Float[Tensor, "n classes"], temperature: float
) -> Float[Tensor, ""]:
    """Kullback-Leibler divergence from the teacher's softened probabilities, times the temperature squared."""
    ours, theirs = (functional.log_softmax(one / temperature, dim=1) for one in (scores, wanted))
    return functional.kl_div(ours, theirs, reduction="batchmean", log_target=True) * temperature**2


def teacher_of(student: ClassesObjective, backbone: Backbone, weights: Mapping[str, Tensor], stage: Stage) -> None:
    """Give the student the teacher that the stage before left: `stage` is that stage, `weights` its outcome."""
    teacher = ClassesObjective(backbone, student.pool, stage, student.seed, student.ranks)
    teacher.load_state_dict(weights)
    student.learn_from(teacher.to(student.ranks.device))
