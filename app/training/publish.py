"""From a trained backbone to a checkpoint folder whose card says how it came about and what it scored."""

import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import torch

from app.backbones._base import Backbone
from app.checkpoints.card import Card
from app.checkpoints.save import save
from app.training.evaluate import Accuracy, embed_pool, evaluate
from app.training.loop import Trained, head_of
from app.training.recipe import Judging, Named, Recipe
from app.training.sampler import Pool

Report = Callable[[str, Judging, Accuracy], None]


def judge_on_test(recipe: Recipe, backbone: Backbone, pool: Pool, report: Report) -> list[dict[str, object]]:
    """Judge every learner of the card on the test classes: rows for the card's `scores`; `report` hears of each."""
    features = embed_pool(backbone, pool)
    rows: list[dict[str, object]] = []
    for learner, settings in recipe.card.learners.items():
        head = head_of(Named(learner, settings))
        for judging in recipe.tests:
            accuracy = evaluate(head, features, judging)
            report(learner, judging, accuracy)
            rows.append(_score(recipe, learner, judging, accuracy))
    return rows


def publish(recipe: Recipe, trained: Trained, scores: list[dict[str, object]], out: Path) -> Card:
    """Write `out/<recipe.name>/`, in place of one that is there, and return its card."""
    backbone = trained.backbone
    card = Card(
        name=recipe.name,
        description=recipe.card.description,
        architecture=recipe.backbone.name,
        architecture_settings=recipe.backbone.settings,
        modality=backbone.modality,
        dim=backbone.dim,
        preprocessing=recipe.card.preprocessing,
        weights=None,
        sha256=None,
        learners=recipe.card.learners,
        shot=recipe.card.shot,
        licence=recipe.card.licence,
        provenance=recipe.card.provenance,
        recipe=_history(recipe, trained),
        scores=scores,
    )
    return save(out, card, backbone.state_dict(), overwrite=True)


def _score(recipe: Recipe, learner: str, judging: Judging, accuracy: Accuracy) -> dict[str, object]:
    return {
        "dataset": f"{recipe.data.name}/{recipe.data.test}",
        "way": judging.way,
        "shot": judging.shot,
        "learner": learner,
        "accuracy": round(accuracy.mean, 5),
        "interval_95": round(accuracy.interval_95, 5),
        "episodes": accuracy.episodes,
        "seed": judging.seed,
        "transductive": False,
        "external_pretraining": None,
    }


def _history(recipe: Recipe, trained: Trained) -> Mapping[str, object]:
    """The recipe without what the card says elsewhere, and what came of it."""
    plan = asdict(recipe)
    for said_elsewhere in ("name", "card", "tests"):
        del plan[said_elsewhere]
    best = trained.best
    device = next(trained.backbone.parameters()).device
    return {
        **plan,
        "best_step": best.step,
        "best_validation_accuracy": round(best.validation.mean, 5),
        "wall_clock_s": round(trained.wall_clock_s),
        "device": f"{device.type} ({platform.machine()}, {torch.get_num_threads()} threads)",
        "torch": torch.__version__.partition("+")[0],
    }
