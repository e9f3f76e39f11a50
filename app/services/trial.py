"""Whether a state that came in a file is one of its learner: it is tried before it is stored."""

from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Shaped
from torch import Tensor

from app.checkpoints.golden import probe_inputs
from app.codecs import RawInput
from app.core.episode import TaskState
from app.core.errors import ImprintError, Invalid
from app.engine.errors import is_of_the_device
from app.learners._base import EmbeddingLearner
from app.registry.records import NewVersion
from app.services.builder import AnyLearner
from app.services.catalogue import Kit
from app.services.tensors import load_state
from app.services.twins import twin

MOST_EMBEDDINGS: Final = 256
"""Embeddings that an imported state is tried on."""

MOST_INPUTS: Final = 8
"""Inputs that an imported state of adapted weights is tried on."""

MOST_STEPS: Final = 100_000
"""Numbers that the trace of an imported state may hold."""

_BACKBONE: Final = "backbone."

_OF_LABELS: Final = {"shots": 1, "means": 2, "variances": 2}
"""What the labels of a state are places in, with its axes: a row for each label of the version."""


class BadExport(Invalid):
    """A file that looks like an export, but whose parts do not fit together."""

    code = "bad-export"
    title = "The export cannot be imported"


@dataclass(frozen=True, eq=False)
class Trial:
    """A head that scores `rows` (what the learner works on) with a stranger's state."""

    learner: AnyLearner
    state: TaskState
    rows: Shaped[Tensor, "n ..."]
    way: int

    def __call__(self, none: Tensor) -> bool:
        """Whether every row gets a finite number for every label; false where it cannot be computed at all.

        Raises: what is the device's fault and not the state's.
        """
        try:
            state = {name: tensor.to(none.device) for name, tensor in self.state.items()}
            rows = self.rows.to(none.device)
            if isinstance(self.learner, EmbeddingLearner):
                logits = self.learner.score(state, rows)
            else:
                logits = twin(self.learner).logits(state, rows)
            return logits.shape == (len(rows), self.way) and bool(logits.isfinite().all())
        except (RuntimeError, IndexError, KeyError, AttributeError, TypeError, ValueError) as error:
            if is_of_the_device(error):
                raise
            return False


def trial_of(kit: Kit, learner: AnyLearner, version: NewVersion, features: Tensor) -> Trial:
    """The trial of an imported version, on what came with it. Raises: `BadExport`."""
    state = load_state(version.state)
    check_labels(state, len(version.labels))
    if isinstance(learner, EmbeddingLearner):
        return Trial(learner, state, features[:MOST_EMBEDDINGS], len(version.labels))
    own = kit.checkpoint.backbone.state_dict()
    for name, tensor in state.items():
        part = name.removeprefix(_BACKBONE)
        if part != name and (part not in own or own[part].shape != tensor.shape):
            raise BadExport(f"The state's {name!r} is none of the weights of {kit.name}.")
    return Trial(learner, state, _inputs(kit, version, features), len(version.labels))


def check_labels(state: TaskState, way: int) -> None:
    """Labels in a state are places in other tensors of it. One outside of them is an error on a CPU, and on CUDA the
    end of the whole process's device: so both are looked at before. Raises: `BadExport`."""
    labels = state.get("labels")
    if labels is None:
        return
    # Of other types some cannot even be compared, and none is what a learner stores.
    whole = labels.dtype == torch.int64 and labels.ndim == 1
    if not whole or (labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < way):
        raise BadExport(f"The state's labels must be whole numbers from 0 to {way - 1}, as int64.")
    for name, axes in _OF_LABELS.items():
        rows = state.get(name)
        if rows is not None and (rows.ndim != axes or len(rows) != way):
            raise BadExport(f"The state's {name} must have a row for each of the {way} labels.")


def check_trace(state: TaskState) -> None:
    """The trace is shown as it is: it must be a list of finite numbers. Raises: `BadExport`."""
    losses = state.get("support_losses")
    if losses is None:
        return
    if losses.ndim != 1 or not losses.is_floating_point() or len(losses) > MOST_STEPS:
        raise BadExport(f"The state's support_losses must be a list of numbers, {MOST_STEPS} at most.")
    if not bool(losses.isfinite().all()):
        raise BadExport("The state's support_losses hold numbers that are not finite.")


def _inputs(kit: Kit, version: NewVersion, features: Tensor) -> Shaped[Tensor, "n ..."]:
    """Some inputs: those in the file, or else such as the backbone takes."""
    backbone = kit.checkpoint.backbone
    kept = [one for one in version.new_examples if one.content is not None][:MOST_INPUTS]
    if not kept:
        return features[:MOST_INPUTS] if backbone.dim is None else probe_inputs(backbone)
    codec = kit.codec.expecting(version.dim if backbone.dim is None else None)
    try:
        decoded = [codec.decode(RawInput("bytes", one.content or b"", "", one.media_type)) for one in kept]
    except ImprintError as error:
        raise BadExport(f"An input in the file is none that {kit.name} reads: {error.detail}") from error
    return codec.stack([one.tensor for one in decoded])
