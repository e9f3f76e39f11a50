"""Backbones of every architecture, exported once for all tests."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from app.backbones import build
from app.backbones._base import Backbone
from app.checkpoints.load import load, scan
from app.config import bundled_models
from app.engine.executors._base import Executor
from app.engine.executors.choose import COMPILED
from app.engine.executors.export import exported
from app.engine.executors.torch_executor import TorchExecutor

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Subject:
    """A frozen backbone and its identity."""

    backbone: Backbone
    sha256: str


@pytest.fixture(scope="session")
def subjects() -> Mapping[str, Subject]:
    """One backbone of each architecture that has weights: the bundled ones, and a small ResNet-12."""
    found = scan([bundled_models()])
    names = {"photo": "photo-efficientnet-lite0", "text": "text-minilm", "glyph": "glyph-conv4-protonet"}
    loaded = {short: load(found[name]) for short, name in names.items()}
    small = build("resnet12", {"widths": (8, 8, 8, 16), "image_size": 16})
    bundled = {short: Subject(one.backbone, one.sha256) for short, one in loaded.items()}
    return {**bundled, "resnet": Subject(small.eval().requires_grad_(False), "0" * 64)}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the exports of the session lie."""
    return tmp_path_factory.mktemp("executors")


@pytest.fixture(scope="session")
def make(subjects: Mapping[str, Subject], folder: Path) -> Callable[..., Executor]:
    """Makes executors: `make("onnxruntime", "photo")`."""

    def made(executor: str, subject: str, micro_batch_tokens: int | None = None) -> Executor:
        backbone = subjects[subject].backbone
        if executor == "torch":
            return TorchExecutor(backbone, CPU, micro_batch_tokens)
        export = exported(backbone, subjects[subject].sha256, folder)
        return COMPILED[executor](backbone, export.path, micro_batch_tokens)

    return made


@pytest.fixture
def draw(subjects: Mapping[str, Subject]) -> Callable[..., list[Tensor]]:
    """Draws inputs, each a part of its own: `draw("text", 5, 40, 1)` texts of these lengths, `draw("photo", 3)`."""

    def drawn(subject: str, *sizes: int, seed: int = 0) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        if subject == "text":
            return [torch.randint(1000, 20_000, (1, length), generator=generator) for length in sizes]
        shape = subjects[subject].backbone.input_shape
        (count,) = sizes
        return list(torch.randint(0, 256, (count, 1, *shape), dtype=torch.uint8, generator=generator))

    return drawn
