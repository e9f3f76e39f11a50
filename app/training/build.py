"""What a stage trains, from the recipe and what the stages before it left."""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from app import backbones, learners
from app.backbones._base import Backbone
from app.checkpoints.card import Dtype, OwnWeights
from app.checkpoints.load import Checkpoint
from app.codecs import Codec
from app.codecs.image import ImageCodec
from app.core.errors import ImprintError
from app.learners._base import EmbeddingLearner, Learner
from app.training.classifier import ClassesObjective, teacher_of
from app.training.decoding import codec_of
from app.training.errors import BadRecipe
from app.training.objective import EpisodesObjective, Objective, backbone_weights
from app.training.parallel import Ranks
from app.training.recipe import Distillation, Named, Recipe
from app.training.sampler import Pool

Weights = Mapping[str, Tensor]

_STAGE_SEEDS = 1_000_003
_PLAIN_JUDGE = Named("protonet", {"normalise": True, "temperature": 10.0})


@dataclass(frozen=True)
class Blueprint:
    """A recipe, and the checkpoint that its `init` names: everything that networks are built from."""

    recipe: Recipe
    start: Checkpoint | None = None

    def __post_init__(self) -> None:
        if self.start is not None and self.start.tokenizer_path is not None and not self.packaged:
            raise BadRecipe(
                "The recipe is wrong at 'train_only': of a network that reads texts a few weights are trained, or "
                "none, with freeze_backbone."
            )

    @property
    def packaged(self) -> bool:
        """Whether the network is one that comes with a package, or without weights, and mostly stays as it is."""
        return (
            (self.recipe.freeze_backbone or bool(self.recipe.train_only))
            and self.start is not None
            and not isinstance(self.start.card.weights, OwnWeights)
        )

    @property
    def preprocessing(self) -> Mapping[str, object]:
        """How inputs become tensors: the recipe's own way, or the start's."""
        if self.recipe.card.preprocessing is not None or self.start is None:
            return self.recipe.card.preprocessing or {}
        return self.start.card.preprocessing

    @property
    def dtype(self) -> Dtype:
        """How the weights are stored: those of a frozen network stay as they were."""
        frozen = self.recipe.freeze_backbone and self.start is not None
        return self.start.card.dtype if frozen and self.start is not None else self.recipe.card.dtype

    def codec(self) -> Codec:
        """What reads the inputs, in training as in serving. Raises: `BadRecipe` for a wrong preprocessing."""
        backbone = self.backbone()
        tokenizer = self.start.tokenizer_path if self.start is not None else None
        try:
            codec = codec_of(backbone.modality, self.preprocessing, tokenizer, backbone.dim)
        except ValueError as error:
            raise BadRecipe(f"The recipe is wrong at 'card.preprocessing': {error}") from error
        if isinstance(codec, ImageCodec):
            how = codec.preprocessing
            shape = (how.channels, how.height, how.width)
            if any(wanted not in {None, got} for wanted, got in zip(backbone.input_shape, shape, strict=True)):
                raise BadRecipe(
                    f"The recipe is wrong at 'card.preprocessing': it makes images of {shape} (channels, height, "
                    f"width); the network reads {backbone.input_shape}."
                )
        return codec

    def backbone(self, number: int = 0) -> Backbone:
        """A network as a run starts with it: random by the seed and the stage's number, or the start's weights.

        The global generator is left alone.
        """
        if self.start is not None:
            card = self.start.card
            built = backbones.build(card.architecture, card.architecture_settings)
            built.load_state_dict(self.start.backbone.state_dict())
            return built
        assert self.recipe.backbone is not None  # noqa: S101 (a recipe has one of the two)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.recipe.seed + number)
            return backbones.build(self.recipe.backbone.name, self.recipe.backbone.settings)

    def learner(self, backbone: Backbone, weights: Weights | None = None) -> Learner[Any]:
        """The recipe's learner over a network, with what training made of both where `weights` are given.

        Raises: `BadRecipe` for a name or a setting that there is not.
        """
        built = build_learner(self.recipe.learner, backbone, self.recipe.seed)
        if weights:
            built.backbone.load_state_dict({**built.backbone.state_dict(), **backbone_weights(weights)})
            prefix = "learner."
            own = {name.removeprefix(prefix): one for name, one in weights.items() if name.startswith(prefix)}
            if own:
                built.load_state_dict({**built.state_dict(), **own})
        return built

    def objective(self, number: int, pool: Pool, previous: Weights, ranks: Ranks) -> Objective:
        """What stage `number` minimises, in training mode on the device, started from what the last one left."""
        stage = self.recipe.stages[number]
        seed = self.recipe.seed + _STAGE_SEEDS * number
        if stage.kind == "episodes":
            learner = self.learner(self.backbone(), previous)
            frozen = self.recipe.freeze_backbone
            if frozen:
                _refuse_frozen(learner)
                learner.backbone.requires_grad_(False)
            self._freeze_others(learner.backbone)
            return EpisodesObjective(learner, pool, stage, seed, ranks, frozen=frozen).to(ranks.device).train()
        return self._classes(number, pool, previous, seed, ranks).to(ranks.device).train()

    def judge(self, objective: Objective) -> Learner[Any]:
        """The learner that judges a stage, over its network."""
        if isinstance(objective, EpisodesObjective):
            return objective.learner
        named = self.recipe.validation.judge
        if named is None:
            usual = issubclass(learners.learner_class(self.recipe.learner.name), EmbeddingLearner)
            named = self.recipe.learner if usual else _PLAIN_JUDGE
        judge = build_learner(named, objective.network)
        return judge.to(objective.ranks.device)

    def _classes(self, number: int, pool: Pool, previous: Weights, seed: int, ranks: Ranks) -> ClassesObjective:
        stage = self.recipe.stages[number]
        how = stage.distillation or Distillation()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            student = ClassesObjective(self.backbone(number), pool, stage, seed, ranks)
        if stage.kind == "distill":
            teacher_of(student, self.backbone(), previous, self.recipe.stages[number - 1])
        if previous and (stage.kind == "classify" or not how.fresh):
            student.backbone.load_state_dict(backbone_weights(previous))
        self._freeze_others(student.backbone)
        return student

    def trains(self, name: str) -> bool:
        """Whether the weight of the network that has this name is trained."""
        return any(fnmatchcase(name, pattern) for pattern in self.recipe.train_only or ("*",))

    def _freeze_others(self, network: Backbone) -> None:
        """Leave alone what `train_only` does not name. Raises: `BadRecipe` where that is everything."""
        if not self.recipe.train_only:
            return
        trained = [one.requires_grad_(self.trains(name)) for name, one in network.named_parameters()]
        if not any(one.requires_grad for one in trained):
            raise BadRecipe("The recipe is wrong at 'train_only': no weight of the network has such a name.")


def build_learner(named: Named, backbone: Backbone, seed: int = 0) -> Learner[Any]:
    """A learner over a network; random weights of its own come from the seed, the global generator is left alone.

    Raises: `BadRecipe` for a name or a setting that there is not.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return learners.build(named.name, backbone, named.settings)
    except ImprintError as error:
        raise BadRecipe(f"The recipe is wrong at the learner {named.name!r}: {error.detail}") from error


def _refuse_frozen(learner: Learner[Any]) -> None:
    if not isinstance(learner, EmbeddingLearner):
        raise BadRecipe("The recipe is wrong at 'freeze_backbone': its learner adapts the network itself.")
