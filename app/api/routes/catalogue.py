"""What can be asked for: backbones, learners, limits."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request, Response

from app import learners
from app.api.deps import ServicesDep
from app.api.responses import json_response
from app.checkpoints.load import Checkpoint
from app.config import Settings
from app.engine.executors.choose import Choice
from app.learners._base import EmbeddingLearner
from app.services.catalogue import Catalogue, Kit

router = APIRouter(prefix="/v1", tags=["catalogue"])


def backbone_json(catalogue: Catalogue, kit: Kit) -> dict[str, object]:
    """A card as it is shown; `sha256` is what tasks are bound to, but for learners with weights of their own."""
    checkpoint, card = kit.checkpoint, kit.checkpoint.card
    return {
        "name": card.name,
        "description": card.description,
        "modality": card.modality,
        "architecture": card.architecture,
        "architecture_settings": card.architecture_settings,
        "input_shape": checkpoint.backbone.input_shape,
        "dim": card.dim,
        "preprocessing": card.preprocessing,
        "learners": card.learners,
        "serves": {name: _served_json(catalogue, kit, name) for name in card.learners},
        "way": asdict(card.way),
        "shot": card.shot,
        "sha256": checkpoint.sha256,
        "executor": _executor_json(catalogue.executors[card.name]) if card.name in catalogue.executors else None,
        "licence": card.licence,
        "provenance": card.provenance,
        "recipe": card.recipe,
        "scores": card.scores,
    }


def _served_json(catalogue: Catalogue, kit: Kit, name: str) -> dict[str, object]:
    """What the card's settings make of a learner: its way limits, what it adapts, what its tasks are bound to."""
    learner = catalogue.candidate(kit, name, {})
    least, most = kit.way(learner.learner)
    return {
        "way": {"min": least, "max": most},
        "adapts_weights": learner.adapts_weights,
        "own_weights": name in kit.checkpoint.learner_weights,
        "sha256": learner.sha256,
    }


def _executor_json(choice: Choice) -> dict[str, object]:
    """What runs the backbone; `example_ms` by the size of a batch, as measured when it was chosen among others."""
    return {
        "name": choice.executor.name,
        "version": choice.version,
        "precision": choice.executor.precision,
        "example_ms": {str(examples): round(spent_ms, 3) for examples, spent_ms in choice.example_ms.items()},
    }


@router.get("/backbones", response_model=dict[str, Any], summary="List backbones")
async def list_backbones(services: ServicesDep) -> Response:
    """Every loaded checkpoint with its card."""
    catalogue = services.catalogue
    kits = [catalogue.shown(name) for name in sorted(catalogue.checkpoints)]
    return json_response({"backbones": [backbone_json(catalogue, kit) for kit in kits]})


@router.get("/backbones/{name}", response_model=dict[str, Any], summary="Show a backbone")
async def show_backbone(name: str, services: ServicesDep) -> Response:
    """Its card: modality, input size, learners, way limits, sha256, measured scores."""
    return json_response(backbone_json(services.catalogue, services.catalogue.shown(name)))


@router.get("/learners", response_model=dict[str, Any], summary="List learners")
async def list_learners(services: ServicesDep) -> Response:
    """Each with its paper, its cost, its settings' JSON schema, and the backbones that serve it."""
    loaded = services.catalogue.checkpoints
    shown = [_learner_json(name, loaded) for name in learners.learner_names()]
    return json_response({"learners": shown})


def _learner_json(name: str, loaded: Mapping[str, Checkpoint]) -> dict[str, object]:
    kind = learners.learner_class(name)
    return {
        "name": name,
        "summary": (kind.__doc__ or "").strip().partition("\n")[0],
        "paper": kind.paper,
        "cost": kind.cost,
        "settings": learners.settings_schema(name),
        "adapts_weights": not issubclass(kind, EmbeddingLearner),
        "backbones": sorted(one for one, checkpoint in loaded.items() if name in checkpoint.card.learners),
    }


@router.get("/limits", response_model=dict[str, int], summary="Show the limits")
async def show_limits(request: Request, services: ServicesDep) -> Response:
    """Every limit in force, units in the names."""
    settings: Settings = request.app.state.settings
    queue = {"queue_examples": settings.engine.queue_examples, "deadline_ms": int(settings.deadline_s * 1000)}
    return json_response({**asdict(services.limits), **queue})
