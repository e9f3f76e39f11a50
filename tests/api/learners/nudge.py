"""A learner for the tests: plain gradient steps on all weights, which a test can watch and hold up."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.func import functional_call

from app.backbones._base import Backbone
from app.core.episode import Support, TaskState
from app.core.heartbeat import beat_now
from app.learners._base import Learner, LearnerSettings

WATCHERS: list[Callable[[], None]] = []
"""Called before each pass through the backbone, while it holds the task's weights."""


@dataclass(frozen=True)
class Settings(LearnerSettings):
    steps: int = field(default=2, metadata={"description": "Steps.", "minimum": 0, "maximum": 1_000_000})
    rate: float = field(default=0.01, metadata={"description": "Learning rate.", "above": 0.0, "maximum": 1e30})
    learned_rates: bool = field(default=False, metadata={"description": "Meta-trained factors of the rate."})
    head_way: int = field(default=0, metadata={"description": "Classes of a fixed head; 0 for any.", "minimum": 0})


@final
class Nudge(Learner[Settings]):
    paper: ClassVar[str] = "none"
    cost: ClassVar[str] = "a forward and a backward pass a step"
    Settings = Settings

    def __init__(self, backbone: Backbone, settings: Settings) -> None:
        super().__init__(backbone, settings)
        if settings.learned_rates:
            self.factors = nn.Parameter(torch.rand(3))

    @property
    def ways(self) -> tuple[int, int] | None:
        return (self.settings.head_way,) * 2 if self.settings.head_way else None

    def adapt(self, support: Support, on_step: Callable[[], None] = beat_now) -> TaskState:
        weights = {f"backbone.{name}": one.detach().clone() for name, one in self.backbone.named_parameters()}
        weights["head.weight"] = torch.zeros(support.way, self.backbone.dim, device=support.inputs.device)
        losses = []
        factor = self.factors.mean() if self.settings.learned_rates else 1.0
        for _ in range(self.settings.steps):
            with torch.enable_grad():
                leaves = {name: one.requires_grad_() for name, one in weights.items()}
                loss = nn.functional.cross_entropy(self.logits(leaves, support.inputs), support.labels)
                slopes = torch.autograd.grad(loss, list(leaves.values()))
            losses.append(loss.detach())
            moved = zip(leaves.items(), slopes, strict=True)
            weights = {name: one.detach() - self.settings.rate * factor * slope for (name, one), slope in moved}
            on_step()
        last = nn.functional.cross_entropy(self.logits(weights, support.inputs), support.labels)
        return {**weights, "support_losses": torch.stack([*losses, last])}

    def logits(self, state: TaskState, inputs: Shaped[Tensor, "q ..."]) -> Float[Tensor, "q way"]:
        own = {name: one for name, one in state.items() if name.startswith("backbone.")}
        return functional_call(_Watched(self.backbone), own, inputs) @ state["head.weight"].T


class _Watched(nn.Module):
    """The backbone, whose weights are those of a task while the watchers are called."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, inputs: Tensor) -> Tensor:
        for watch in WATCHERS:
            watch()
        return self.backbone(inputs)
