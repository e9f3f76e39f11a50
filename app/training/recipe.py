"""A recipe: everything that decides what a training run yields, read from TOML."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from app.checkpoints.card import Dtype
from app.training.data_section import Augmentation, Data
from app.training.errors import BadRecipe
from app.training.strict import check, section

__all__ = ["Augmentation", "BadRecipe", "Data", "Recipe", "read_recipe", "recipe_from_dict"]

Accumulate: TypeAlias = Literal["auto", "loop", "workers", "vmap"]


@dataclass(frozen=True)
class Named:
    """A backbone or a learner: its name, and its settings."""

    name: str
    settings: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Episodes:
    """What the training episodes look like.

    Of `way` classes, `images` examples each are drawn (or `shot` + `queries`) and then split `splits` times, each
    time with another `shot` of them as the support and the rest as the queries. A learner on embeddings embeds them
    once for all splits. A step takes `meta_batch` episodes; `accumulate` says how their gradients are summed: one
    backward an episode ("loop"), the same on a thread for each core ("workers", on a CPU), all tasks at once where the
    learner can ("vmap"), or what is faster here ("auto").
    """

    way: int
    shot: int = 1
    queries: int | None = None
    images: int | None = None
    splits: int = 1
    meta_batch: int = 1
    accumulate: Accumulate = "auto"

    def __post_init__(self) -> None:
        where = "stages.episodes"
        check(self.way >= 2, where, "way must be 2 or more")
        check((self.queries is None) != (self.images is None), where, "give either queries or images")
        check(1 <= self.shot < self.each, where, "shot must be 1 or more and leave a query")
        check(1 <= self.splits <= self.each, where, "splits must lie between 1 and the examples of a class")
        check(self.meta_batch >= 1, where, "meta_batch must be 1 or more")

    @property
    def each(self) -> int:
        """How many examples of a class an episode draws."""
        return self.images if self.images is not None else self.shot + (self.queries or 0)


@dataclass(frozen=True)
class Classes:
    """How a classifier over all training classes is trained: `batch` examples a step, each class by its share.

    `head` is "linear", or "cosine" (of embedding and class weight, times a learned scale, as Meta-Baseline does).
    `label_smoothing` is the share of the target that is spread over all classes. With `rotation_weight`, every image
    is also seen turned by 90, 180 and 270 degrees and a second head tells from the class scores by how much; its
    loss is added with that weight (Rajasegaran et al., 2020, arXiv:2006.09785, eq. 2-4).
    """

    batch: int = 64
    head: Literal["linear", "cosine"] = "linear"
    label_smoothing: float = 0.0
    rotation_weight: float = 0.0

    def __post_init__(self) -> None:
        where = "stages.classes"
        check(self.batch >= 2, where, "batch must be 2 or more")
        check(0 <= self.label_smoothing < 1, where, "label_smoothing must be 0 or more and below 1")
        check(self.rotation_weight >= 0, where, "rotation_weight must be 0 or more")


@dataclass(frozen=True)
class Distillation:
    """How a student learns from the stage before (Tian et al., ECCV 2020, arXiv:2003.11539, eq. 5-6).

    The loss is `soft_share` of the Kullback-Leibler divergence from the teacher's class probabilities, both softened
    by `temperature` and scaled by its square, and the rest of the cross-entropy. With `fresh`, the student starts
    from random weights (born again), else from the teacher's.
    """

    temperature: float = 4.0
    soft_share: float = 0.5
    fresh: bool = True

    def __post_init__(self) -> None:
        check(self.temperature > 0, "stages.distillation", "temperature must be above 0")
        check(0 < self.soft_share <= 1, "stages.distillation", "soft_share must be above 0 and at most 1")


@dataclass(frozen=True)
class Optimiser:
    """The optimiser in cycles: each warms up linearly, then falls along half a cosine to `final_share` of its peak.

    `cycles` are their lengths in steps. The first peaks at `learning_rate`, each later one at
    `cycle_decay` of the one before (Loshchilov and Hutter, ICLR 2017, arXiv:1608.03983, eq. 5). What is the learner's
    own (learned settings, rates, networks) learns at `learner_factor` times that, without `weight_decay`.
    `clip_norm` bounds the norm of the gradient. With `ema_decay`, a running average of the weights is what is
    validated and kept. `amp` computes the network in bfloat16: "gpu" there only, "on" everywhere.
    """

    cycles: tuple[int, ...]
    learning_rate: float
    kind: Literal["adam", "adamw", "sgd"] = "adam"
    cycle_decay: float = 1.0
    warmup_steps: int = 0
    final_share: float = 0.0
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 0.0
    learner_factor: float = 1.0
    clip_norm: float | None = None
    ema_decay: float | None = None
    amp: Literal["off", "gpu", "on"] = "off"

    def __post_init__(self) -> None:
        where = "stages.optimiser"
        check(bool(self.cycles) and min(self.cycles) >= 1, where, "cycles must be lengths of 1 or more")
        check(self.learning_rate > 0, where, "learning_rate must be above 0")
        check(0 <= self.momentum < 1, where, "momentum must be 0 or more and below 1")
        check(self.weight_decay >= 0, where, "weight_decay must be 0 or more")
        check(self.learner_factor >= 0, where, "learner_factor must be 0 or more")
        check(self.clip_norm is None or self.clip_norm > 0, where, "clip_norm must be above 0")
        check(self.ema_decay is None or 0 < self.ema_decay < 1, where, "ema_decay must lie between 0 and 1")

    @property
    def steps(self) -> int:
        """The length of the stage."""
        return sum(self.cycles)


@dataclass(frozen=True)
class Stage:
    """One part of a run, which starts from the best weights of the one before.

    "classify" trains a classifier over all training classes, which is kept only while such stages run; "distill"
    trains another one, taught by it; "episodes" meta-trains the recipe's learner. `keep` says what goes on: the best
    weights by validation, or the last. `every_steps` is when to validate, where it is not the recipe's.
    """

    kind: Literal["classify", "distill", "episodes"]
    optimiser: Optimiser
    episodes: Episodes | None = None
    classes: Classes | None = None
    distillation: Distillation | None = None
    augmentation: Augmentation = field(default_factory=Augmentation)
    every_steps: int | None = None
    keep: Literal["best", "last"] = "best"

    def __post_init__(self) -> None:
        where = "stages"
        meta = self.kind == "episodes"
        check((self.episodes is not None) == meta, where, 'episodes belongs to the kind "episodes", which needs it')
        check(self.classes is None or not meta, where, 'classes belongs to the kinds "classify" and "distill"')
        fits = self.distillation is None or self.kind == "distill"
        check(fits, where, 'distillation belongs to the kind "distill"')
        check(self.every_steps is None or self.every_steps >= 1, where, "every_steps must be 1 or more")


@dataclass(frozen=True)
class Judging:
    """Episodes that judge: `episodes` of `way` classes, with `shot` supports and `queries` a class."""

    way: int
    shot: int
    episodes: int = 600
    queries: int = 5
    seed: int = 1

    def __post_init__(self) -> None:
        check(self.way >= 2, "judging", "way must be 2 or more")
        check(min(self.shot, self.queries) >= 1, "judging", "shot and queries must be 1 or more")
        check(self.episodes >= 2, "judging", "episodes must be 2 or more")


@dataclass(frozen=True)
class Validation:
    """When and on what the best weights are chosen.

    `judge` is the learner that judges a stage of classification, there on the embeddings: the recipe's own learner
    where it works on embeddings, else prototypes of embeddings of length one.
    """

    every_steps: int
    judging: Judging
    judge: Named | None = None

    def __post_init__(self) -> None:
        check(self.every_steps >= 1, "validation", "every_steps must be 1 or more")


@dataclass(frozen=True)
class Publication:
    """What the checkpoint's card says beyond what the run itself knows.

    The trained learner comes first in the card, with the settings it was trained with, learned ones included,
    unless `learners` gives it another place. `preprocessing` may be left out with `init`.
    """

    description: str = ""
    licence: str = "not stated"
    provenance: str = ""
    preprocessing: Mapping[str, object] | None = None
    learners: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    shot: Mapping[str, int] | None = None
    dtype: Dtype = "float32"
    external_pretraining: str | None = None


@dataclass(frozen=True)
class Recipe:
    """One training run. Same recipe, data and machine: same weights.

    `init` names a checkpoint whose weights it starts from; `backbone` is then that checkpoint's. With
    `freeze_backbone` the network stays as it is and the learner alone is trained, on embeddings made once. With
    `train_only`, those of the network's weights alone are trained whose names fit one of the patterns (`*.bias`), as
    Ben Zaken, Ravfogel, Goldberg do (ACL 2022, arXiv:2106.10199); of a network that comes with a package, they are
    stored as its adapter. `plain_init` starts from the package's weights without the adapter of the checkpoint.
    """

    name: str
    data: Data
    learner: Named
    stages: tuple[Stage, ...]
    validation: Validation
    backbone: Named | None = None
    seed: int = 0
    init: str | None = None
    freeze_backbone: bool = False
    train_only: tuple[str, ...] = ()
    plain_init: bool = False
    tests: tuple[Judging, ...] = ()
    card: Publication = field(default_factory=Publication)

    def __post_init__(self) -> None:
        check(bool(self.stages), "stages", "there must be one or more")
        check((self.backbone is None) == (self.init is not None), "backbone", "give either backbone or init")
        for number, stage in enumerate(self.stages):
            taught = stage.kind != "distill" or (number > 0 and self.stages[number - 1].kind != "episodes")
            check(taught, f"stages[{number}]", 'a "distill" stage must follow a "classify" or "distill" stage')
        check(not (self.freeze_backbone and self.train_only), "train_only", "a frozen network trains nothing")
        check(not self.plain_init or self.init is not None, "plain_init", "it belongs to init")
        if self.freeze_backbone:
            plain = [stage.kind == "episodes" and stage.augmentation == Augmentation() for stage in self.stages]
            wanted = 'every stage must be of the kind "episodes", without augmentation: embeddings are made once'
            check(all(plain), "freeze_backbone", wanted)
        if self.init is None:
            vectors = self.backbone is not None and self.backbone.name == "identity"
            check(vectors or self.card.preprocessing is not None, "card", "missing keys ['preprocessing']")


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe. Raises: `BadRecipe`; `OSError` where there is no such file."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadRecipe(f"The recipe {path.name!r} is not TOML: {error}.") from error
    return recipe_from_dict(raw)


def recipe_from_dict(raw: Mapping[str, object]) -> Recipe:
    """Build a recipe from parsed TOML. Raises: `BadRecipe` that names the key at fault."""
    return section(Recipe, raw)
