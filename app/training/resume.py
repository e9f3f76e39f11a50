"""The state of a run on disk: enough to go on after `kill -9` as if nothing had been.

One safetensors file, whose header holds the rest as JSON, so that one rename puts it in place whole.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor

from app.core.errors import Conflict
from app.training.progress import Progress, progress_of
from app.training.recipe import Recipe
from app.training.sampler import Pool
from app.training.strict import said

STATE_FILE: Final = "state.safetensors"
_FORM: Final = 1

Weights = dict[str, Tensor]


class OtherRun(Conflict):
    """A state that another recipe or other data made, or that cannot be read."""

    code = "other-run"
    title = "The stored state belongs to another run"


@dataclass
class RunState:
    """Everything that the rest of a run depends on, and what its report shows.

    `step` counts the steps done in `stage`. `groups` are the optimiser's settings, `slots` its tensors. `best` are
    the weights that went best in this stage's validation, `previous` those that the stage before handed on. `losses`
    has one number for each step of the whole run. `left_out` has [step, episodes that diverged] for those of this
    stage's steps that had any, as far back as they still count.
    """

    digest: str
    stage: int = 0
    step: int = 0
    elapsed_s: float = 0.0
    mode: str = ""
    average_steps: int = 0
    groups: list[dict[str, Any]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    history: list[Progress] = field(default_factory=list)
    best_progress: Progress | None = None
    left_out: list[list[int]] = field(default_factory=list)
    weights: Weights = field(default_factory=dict)
    slots: Weights = field(default_factory=dict)
    average: Weights = field(default_factory=dict)
    best: Weights = field(default_factory=dict)
    previous: Weights = field(default_factory=dict)

    def next_stage(self, handed_on: Weights) -> None:
        """Leave a stage for the one after it."""
        self.stage, self.step, self.mode, self.average_steps = self.stage + 1, 0, "", 0
        self.groups, self.left_out, self.best_progress, self.previous = [], [], None, handed_on
        self.weights, self.slots, self.average, self.best = {}, {}, {}, {}


_TENSORS: Final = ("weights", "slots", "average", "best", "previous")


def digest_of(recipe: Recipe, *pools: Pool) -> str:
    """SHA-256 of what decides the weights: the recipe without its tests and card, and the examples.

    What a recipe leaves out is left out: a key that a later version knows does not make it another recipe.
    """
    plan = {name: one for name, one in said(recipe).items() if name not in {"name", "tests", "card"}}
    found = hashlib.sha256(json.dumps(plan, sort_keys=True).encode())
    for pool in pools:
        about = [pool.names, pool.counts.tolist(), list(pool.inputs.shape), str(pool.inputs.dtype)]
        found.update(json.dumps(about).encode())
        found.update(pool.inputs.cpu().contiguous().numpy().data)
    return found.hexdigest()


def save_state(folder: Path, state: RunState) -> None:
    """Put the state into the run's folder: whole, or the former one stays. Raises: `OSError` of the disk."""
    plain = {name: value for name, value in vars(state).items() if name not in (*_TENSORS, "losses")}
    plain["history"] = [one.as_dict() for one in state.history]
    plain["best_progress"] = state.best_progress.as_dict() if state.best_progress else None
    tensors = {f"{kind}/{name}": _stored(one) for kind in _TENSORS for name, one in getattr(state, kind).items()}
    tensors["losses"] = torch.tensor(state.losses, dtype=torch.float64)
    content = to_safetensors(tensors, {"form": str(_FORM), "state": json.dumps(plain)})
    write_whole(folder / STATE_FILE, content)


def load_state(folder: Path, digest: str) -> RunState | None:
    """The state in the run's folder, on the CPU; None where there is none.

    Raises: `OtherRun` where it was not made by this recipe on these data, or is damaged.
    """
    path = folder / STATE_FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            about: Mapping[str, str] = file.metadata() or {}
        tensors = load_file(path)
        plain = json.loads(about["state"]) if about.get("form") == str(_FORM) else {}
    except (SafetensorError, ValueError, KeyError) as error:
        raise OtherRun(f"The state of the run cannot be read ({error}). Start anew with --fresh.") from error
    if plain.get("digest") != digest:
        raise OtherRun(
            "The state in the run's folder comes from another recipe or other data. Put those back to go on with it, "
            "give this recipe another name, or start anew with --fresh, which throws that state away."
        )
    plain["history"] = [progress_of(one) for one in plain["history"]]
    plain["best_progress"] = progress_of(plain["best_progress"]) if plain["best_progress"] else None
    plain["losses"] = tensors.pop("losses").tolist()
    parts: dict[str, Weights] = {kind: {} for kind in _TENSORS}
    for name, one in tensors.items():
        kind, _, rest = name.partition("/")
        parts[kind][rest] = one
    return RunState(**{**plain, **parts})


def optimiser_slots(optimiser: torch.optim.Optimizer) -> tuple[Weights, list[dict[str, Any]]]:
    """An optimiser's tensors by name ("3/exp_avg"), and its groups of parameters."""
    state = optimiser.state_dict()
    slots = {
        f"{number}/{name}": one
        for number, entry in state["state"].items()
        for name, one in entry.items()
        if isinstance(one, Tensor)
    }
    return slots, state["param_groups"]


def fill_optimiser(optimiser: torch.optim.Optimizer, slots: Weights, groups: list[dict[str, Any]]) -> None:
    """Put back what `optimiser_slots` gave."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, one in slots.items():
        number, _, name = key.partition("/")
        state.setdefault(int(number), {})[name] = one
    optimiser.load_state_dict({"state": state, "param_groups": groups})


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all, and survives a power cut. Raises: `OSError` of the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    with fresh.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    fresh.replace(path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _stored(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu").contiguous().clone()
