"""Few-shot algorithms of others on the episodes of a folder, asked by `benchmarks.peer_rows.algorithms`.

easyfsl's classifiers, and MAML as `higher` is used once meta-training is over: a patched copy of the model for each
task, steps without a graph through them. Nothing of ours is imported; `serve` below is asked of ours too.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.meta_contenders import Model, Task
from benchmarks.peer_servers import turns

WEIGHTS_FILE: Final = "weights.safetensors"
EPISODES_FILE: Final = "episodes.safetensors"
CHECKED: Final = 4
"""Episodes whose scores are compared, in float64: in float32 one ReLU that flips is seen."""
LEAST_SHARE: Final = 1e-6
"""What easyfsl adds to a share of the attention before its logarithm."""


@dataclass(frozen=True)
class Work:
    """What is run: `method` is protonet, matching or maml; on `images` through the conv4, or on its embeddings."""

    method: str
    images: bool = True
    way: int = 5
    shot: int = 5
    queries: int = 15
    dim: int = 64
    steps: int = 5
    rate: float = 0.1
    device: str = "cpu"


Scores = Callable[[Task], Tensor]
"""Scores (q, way) of an episode's queries, from nothing but its support set."""

Maker = Callable[[Work, Mapping[str, Tensor], torch.dtype], Scores]


class Embedding(nn.Module):
    """The conv4 without its head."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings (n, dim)."""
        return self.model.embed(images)


def theirs(work: Work, weights: Mapping[str, Tensor], kind: torch.dtype) -> Scores:
    """The peer's algorithm."""
    model = Model(work.way)
    model.load_state_dict(weights)
    model.to(work.device, kind).eval()
    if work.method == "maml":
        return lambda task: maml(work, model, task)
    return easyfsl(work, Embedding(model) if work.images else None, kind)


def easyfsl(work: Work, backbone: nn.Module | None, kind: torch.dtype) -> Scores:
    """Its classifiers as they come; the untrained LSTMs of matching are at zero, where they change nothing."""
    _torchvision()
    methods: Any = importlib.import_module("easyfsl.methods")
    if work.method == "protonet":
        made = methods.PrototypicalNetworks(backbone)
    else:
        made = methods.MatchingNetworks(backbone, feature_dimension=work.dim)
        for name, one in made.named_parameters():
            if not name.startswith("backbone."):
                nn.init.zeros_(one)
    made.to(work.device, kind).eval()

    @torch.no_grad()
    def run(task: Task) -> Tensor:
        made.process_support_set(task.support, task.support_labels)
        if work.method == "matching":
            # It is float32 whatever the embeddings are; no change unless the scores are compared in float64.
            made.one_hot_support_labels = made.one_hot_support_labels.to(kind)
        scores: Tensor = made(task.queries)
        return scores

    return run


def _torchvision() -> None:
    """Import what easyfsl takes a ResNet from, which is not used here.

    Its build on PyPI is made for torch with CUDA. Beside a torch without, its own operators do not load, and the import
    fails, unless those are declared for which it registers more.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for name in ("nms", "qnms"):
            declared = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{name}", declared)
        importlib.import_module("torchvision")


def maml(work: Work, model: Model, task: Task) -> Tensor:
    """Adapt and predict with `higher`."""
    higher: Any = importlib.import_module("higher")
    inner = torch.optim.SGD(model.parameters(), lr=work.rate)
    with higher.innerloop_ctx(model, inner, track_higher_grads=False) as (patched, steps):
        for _ in range(work.steps):
            steps.step(cross_entropy(patched(task.support), task.support_labels))
        with torch.no_grad():
            scores: Tensor = patched(task.queries)
    return scores


def as_ours(work: Work, scores: Tensor) -> Tensor:
    """A peer's scores in the form that ours have: squared distances; the logarithm of bare shares."""
    if work.method == "protonet":
        return -scores.square()
    return (scores.exp() - LEAST_SHARE).log() if work.method == "matching" else scores


class Turns:
    """Answers {folder, work}, {least_s} with episodes and CPU seconds, {file} with the share of right answers.

    A model of a peer gets its pixels from 0 to 1, `scaled` beforehand; ours scales them itself.
    """

    def __init__(self, make: Maker, form: Callable[[Work, Tensor], Tensor], scaled: bool) -> None:
        self._make, self._form, self._scaled = make, form, scaled
        self._work = Work("")
        self._folder = Path()
        self._tasks: list[Task] = []
        self._run: Scores = lambda task: task.queries

    def __call__(self, message: dict[str, Any]) -> object:
        """One answer."""
        if "work" in message:
            self._work, self._folder = Work(**message["work"]), Path(message["folder"])
            self._run, self._tasks = self._ready(torch.float32)
            return len(self._tasks)
        if "least_s" in message:
            source = cycle(self._tasks)
            return turns.timed(lambda: self._once(next(source)), message["least_s"])
        save_file({"scores": self._checked()}, message["file"])
        right = [self._run(task).argmax(1) == task.query_labels for task in self._tasks]
        return 100 * float(torch.cat(right).float().mean())

    def _once(self, task: Task) -> None:
        self._run(task)
        if self._work.device != "cpu":
            torch.cuda.synchronize()

    def _checked(self) -> Tensor:
        run, tasks = self._ready(torch.float64)
        return torch.cat([self._form(self._work, run(task)) for task in tasks[:CHECKED]]).cpu().contiguous()

    def _ready(self, kind: torch.dtype) -> tuple[Scores, list[Task]]:
        run = self._make(self._work, load_file(self._folder / WEIGHTS_FILE), kind)
        stored = {name: one.to(self._work.device) for name, one in load_file(self._folder / EPISODES_FILE).items()}
        typed = {name: self._typed(one, kind) for name, one in stored.items()}
        return run, [Task(*one) for one in zip(*(typed[field] for field in Task._fields), strict=True)]

    def _typed(self, stored: Tensor, kind: torch.dtype) -> Tensor:
        if stored.dtype == torch.uint8:
            return stored.to(kind) / 255 if self._scaled else stored
        return stored.to(kind) if stored.is_floating_point() else stored


if __name__ == "__main__":
    turns.serve(Turns(theirs, as_ours, scaled=True))
