"""From a trained learner to a checkpoint folder whose card says how it came about and what it scored."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from app import learners
from app.backbones._base import Backbone
from app.checkpoints.card import Card
from app.checkpoints.load import Checkpoint
from app.checkpoints.save import save
from app.learners._base import EmbeddingLearner, Learner
from app.training.build import Blueprint, build_learner
from app.training.embedding import embed_pool
from app.training.evaluate import Accuracy, evaluate
from app.training.parallel import ALONE, Ranks
from app.training.recipe import Judging, Named, Recipe
from app.training.sampler import Pool
from app.training.strict import said
from app.training.train import Trained

RUN_FOLDER: Final = "run"
_PROJECTION: Final = "projection."

Heard = Callable[[str, Judging, Accuracy], None]
Learners = Mapping[str, Learner[Any]]


def learners_of(checkpoint: Checkpoint) -> Learners:
    """Every learner that a checkpoint serves, as it serves it, in the order of its card."""
    found = {}
    for name, settings in checkpoint.card.learners.items():
        found[name] = learners.build(name, checkpoint.backbone, settings).eval()
        if name in checkpoint.learner_weights:
            found[name].load_own_state(checkpoint.learner_weights[name])
    return found


def learners_to_serve(recipe: Recipe, trained: Trained) -> Learners:
    """The trained learner with what it learned as plain settings, and the card's others, over one network.

    Others that ask for the `projection` that was trained get it.
    """
    name, learned = recipe.learner.name, trained.learner
    settings = {**recipe.card.learners.get(name, {}), **recipe.learner.settings, **learned.learned_settings()}
    wanted: dict[str, Mapping[str, object]] = {} if name in recipe.card.learners else {name: settings}
    wanted.update(recipe.card.learners)
    wanted[name] = settings
    shared = {key: one for key, one in learned.own_state().items() if key.startswith(_PROJECTION)}
    found = {}
    for one, its in wanted.items():
        found[one] = build_learner(Named(one, its), learned.backbone).eval()
        own = learned.own_state() if one == name else shared
        if own and set(own) == set(found[one].own_state()):
            found[one].load_own_state(own)
    return found


def judge_on_test(
    judged: Learners,
    pool: Pool,
    tests: Sequence[Judging],
    about: tuple[str, str | None],
    heard: Heard = lambda *_: None,
    ranks: Ranks = ALONE,
) -> list[Mapping[str, Any]]:
    """Judge learners over one network: rows for a card's `scores`; `heard` hears of each.

    `about` is what the rows say of the data (`dataset`) and of `external_pretraining`. A learner that does not serve
    a test's number of classes is passed over. Raises: `ValueError` for a small pool.
    """
    features: Pool | None = None
    rows: list[Mapping[str, Any]] = []
    for name, learner in judged.items():
        embedded = isinstance(learner, EmbeddingLearner)
        if embedded and features is None:
            features = embed_pool(learner.backbone, pool)
        seen = features if embedded and features is not None else pool
        for judging in tests:
            least, most = learner.ways or (judging.way, judging.way)
            if least <= judging.way <= most:
                accuracy = evaluate(learner, seen, judging, embedded=embedded, ranks=ranks)
                heard(name, judging, accuracy)
                rows.append(_score(about, name, judging, accuracy))
    return rows


def publish(
    blueprint: Blueprint, trained: Trained, served: Learners, scores: Sequence[Mapping[str, object]], out: Path
) -> Card:
    """Write `out/<recipe.name>/`, in place of a checkpoint that is there, and return its card.

    The folder of the run stays in it. A frozen network that comes with a package is not copied: the card names that.
    """
    recipe, about, backbone = blueprint.recipe, blueprint.recipe.card, trained.learner.backbone
    start = blueprint.start.card if blueprint.start is not None else None
    packaged = blueprint.packaged
    card = Card(
        name=recipe.name,
        description=about.description or _description(recipe),
        architecture=start.architecture if start else backbone_name(recipe),
        architecture_settings=start.architecture_settings if start else _settings(recipe),
        modality=backbone.modality,
        dim=backbone.dim,
        preprocessing=blueprint.preprocessing,
        weights=start.weights if start and packaged else None,
        sha256=start.sha256 if start and packaged else None,
        dtype=blueprint.dtype,
        learners={name: _plain(one) for name, one in served.items()},
        shot=about.shot,
        licence=about.licence,
        provenance=about.provenance or _provenance(recipe),
        recipe=_history(recipe, trained),
        scores=scores,
    )
    weights = None if packaged or not backbone.state_dict() else backbone.state_dict()
    own = {name: one.own_state() for name, one in served.items()}
    return _saved(out, card, weights, own, _adapter(blueprint, backbone))


def _adapter(blueprint: Blueprint, backbone: Backbone) -> dict[str, Tensor]:
    """Those weights of a packaged network that are not the package's: of the start's adapter, and trained here."""
    if not blueprint.packaged or blueprint.start is None:
        return {}
    trained = {
        name: one for name, one in backbone.named_parameters() if blueprint.recipe.train_only and blueprint.trains(name)
    }
    return {**blueprint.start.adapter, **trained}


def rounded(backbone: Backbone, dtype: str) -> None:
    """Make the weights what they will be after they were stored as `dtype`."""
    kind = getattr(torch, dtype)
    weights = {
        name: one.to(kind).to(one.dtype) if one.is_floating_point() else one
        for name, one in backbone.state_dict().items()
    }
    backbone.load_state_dict(weights)


def _saved(
    out: Path,
    card: Card,
    weights: Mapping[str, Tensor] | None,
    own: Mapping[str, Mapping[str, Tensor]],
    adapter: Mapping[str, Tensor],
) -> Card:
    """Save, with the run's folder put aside meanwhile: a checkpoint's folder is replaced whole."""
    run, aside = out / card.name / RUN_FOLDER, out / f".{card.name}.{RUN_FOLDER}"
    if run.is_dir():
        run.rename(aside)
    try:
        return save(out, card, weights, own, adapter=adapter, overwrite=True)
    finally:
        restore_run_folder(out, card.name)


def restore_run_folder(out: Path, name: str) -> Path:
    """The run's folder, put back where a crash while publishing left it aside."""
    run, aside = out / name / RUN_FOLDER, out / f".{name}.{RUN_FOLDER}"
    if aside.is_dir() and not run.exists():
        run.parent.mkdir(parents=True, exist_ok=True)
        aside.rename(run)
    return run


def backbone_name(recipe: Recipe) -> str:
    """The architecture that a recipe names."""
    return recipe.backbone.name if recipe.backbone else ""


def _settings(recipe: Recipe) -> Mapping[str, object]:
    return recipe.backbone.settings if recipe.backbone else {}


def _plain(learner: Learner[Any]) -> Mapping[str, object]:
    """The settings that differ from the learner's defaults."""
    usual = asdict(type(learner).Settings())
    return {name: value for name, value in asdict(learner.settings).items() if value != usual[name]}


def _description(recipe: Recipe) -> str:
    what = f"the checkpoint {recipe.init}" if recipe.init else f"a {backbone_name(recipe)} network"
    return f"{recipe.learner.name} meta-trained over {what} on {recipe.data.title('train')}."


def _provenance(recipe: Recipe) -> str:
    before = f"Started from the checkpoint {recipe.init}" if recipe.init else "Trained from random weights"
    how = ", whose network was left as it is" if recipe.freeze_backbone else ""
    return f"{before}{how}; trained on {recipe.data.title('train')}, chosen by {recipe.data.title('validation')}."


def _score(about: tuple[str, str | None], learner: str, judging: Judging, accuracy: Accuracy) -> Mapping[str, Any]:
    return {
        "dataset": about[0],
        "way": judging.way,
        "shot": judging.shot,
        "learner": learner,
        "accuracy": round(accuracy.mean, 5),
        "interval_95": round(accuracy.interval_95, 5),
        "episodes": accuracy.episodes,
        "seed": judging.seed,
        "transductive": False,
        "external_pretraining": about[1],
    }


def _history(recipe: Recipe, trained: Trained) -> Mapping[str, object]:
    """What the recipe sets, without what the card says elsewhere, and what came of it."""
    said_elsewhere = {"name", "card", "tests"}
    plan = {"seed": recipe.seed} | {name: one for name, one in said(recipe).items() if name not in said_elsewhere}
    best = trained.best
    return {
        **plan,
        "best_stage": best.stage,
        "best_step": best.step,
        "best_validation_accuracy": round(best.validation.mean, 5),
        "finished": trained.finished,
        "wall_clock_s": round(trained.wall_clock_s),
        "device": trained.device,
        "torch": torch.__version__.partition("+")[0],
    }
