"""One running app for the HTTP tests, and examples to send to it."""

import base64
import importlib
import io
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from app import learners
from app.backbones import build
from app.checkpoints.card import Card
from app.checkpoints.save import save
from app.config import Settings
from app.main import create_app

Vectors = dict[str, list[list[float]]]


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A client of an app that serves the bundled checkpoints on the CPU."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("data"), device="cpu")
    with TestClient(create_app(settings), raise_server_exceptions=False) as opened:
        yield opened


@pytest.fixture
def small_client(tmp_path: Path) -> Iterator[Callable[..., TestClient]]:
    """Makes apps with settings of a test's own, on the vector backbone alone."""
    opened = []

    def make(**changes: object) -> TestClient:
        settings = Settings(**{"data_dir": tmp_path, "device": "cpu", "backbones": "vector-identity", **changes})
        one = TestClient(create_app(settings), raise_server_exceptions=False)
        one.__enter__()
        opened.append(one)
        return one

    yield make
    for one in reversed(opened):
        one.__exit__(None, None, None)


@pytest.fixture(scope="session")
def vectors() -> Callable[..., Vectors]:
    """Clusters of vectors: `vectors("ab", shot=5, dim=8, seed=0)`; a label's centre does not depend on the seed."""

    def make(labels: str = "abc", shot: int = 5, dim: int = 8, seed: int = 0) -> Vectors:
        draw = np.random.default_rng(seed)
        return {
            label: [
                [
                    round(float(x), 4)
                    for x in np.random.default_rng(ord(label)).normal(0, 3, dim) + draw.normal(0, 1, dim)
                ]
                for _ in range(shot)
            ]
            for label in labels
        }

    return make


@pytest.fixture
def task(client: TestClient, vectors: Callable[..., Vectors]) -> dict[str, object]:
    """A stored task of three labels on vectors."""
    return create(client, {"backbone": "vector-identity", "learner": "protonet", "support": vectors()})


def create(client: TestClient, body: dict[str, object]) -> dict[str, object]:
    """POST /v1/tasks, which must succeed."""
    response = client.post("/v1/tasks", json=body)
    assert response.status_code == 201, response.text
    made: dict[str, object] = response.json()
    return made


@pytest.fixture(scope="session")
def image() -> Callable[..., bytes]:
    """Pictures of one colour with noise: `image((255, 0, 0), seed=1, format="PNG", size=64)`."""

    def make(colour: tuple[int, int, int], seed: int = 0, format: str = "PNG", size: int = 64) -> bytes:
        noise = np.random.default_rng(seed).integers(-20, 20, (size, size, 3))
        pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format)
        return buffer.getvalue()

    return make


@pytest.fixture(scope="session")
def b64() -> Callable[[bytes], str]:
    """Base64 as JSON takes it."""
    return lambda data: base64.b64encode(data).decode()


@pytest.fixture(scope="module")
def nudge() -> Iterator[ModuleType]:
    """Adds the learner `nudge`, which adapts weights and can be watched; the module, for its `WATCHERS`."""
    folder = str(Path(__file__).parent / "learners")

    def forget() -> None:
        learners.learner_names.cache_clear()
        learners.learner_class.cache_clear()

    learners.__path__.append(folder)
    forget()
    yield importlib.import_module("app.learners.nudge")
    learners.__path__.remove(folder)
    del sys.modules["app.learners.nudge"]
    forget()


@pytest.fixture
def watched(nudge: ModuleType) -> Iterator[list[Callable[[], None]]]:
    """What `nudge` calls before each step, during this test."""
    yield nudge.WATCHERS
    nudge.WATCHERS.clear()


Weights = Mapping[str, Mapping[str, torch.Tensor]]
GLYPHS = {
    "height": 28,
    "width": 28,
    "channels": 1,
    "resize": "stretch",
    "interpolation": "box",
    "polarity": "ink-bright",
}


def save_glyphs(
    models: Path, served: Mapping[str, Mapping[str, object]], own: Weights | None = None, filters: int = 8
) -> None:
    """A checkpoint `glyphs` of random weights, always the same, that serves these learners."""
    settings = {"filters": filters}
    backbone = build("conv4", settings)
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.randn(one.shape, generator=generator) * 0.3 if ".conv." in name else one
        for name, one in backbone.state_dict().items()
    }
    card = Card(
        name="glyphs",
        description="For tests.",
        architecture="conv4",
        architecture_settings=settings,
        modality="image",
        dim=filters,
        preprocessing=GLYPHS,
        weights=None,
        sha256=None,
        learners=served,
        licence="Apache-2.0",
        provenance="Random numbers.",
    )
    save(models, card, weights, own or {}, overwrite=True)


@pytest.fixture
def glyph_client(small_client: Callable[..., TestClient], tmp_path: Path) -> Callable[..., TestClient]:
    """Makes apps that serve a checkpoint `glyphs` with the given learners: `glyph_client({"nudge": {}})`."""

    def make(
        served: Mapping[str, Mapping[str, object]], own: Weights | None = None, filters: int = 8, **changes: object
    ) -> TestClient:
        save_glyphs(tmp_path / "models", served, own, filters)
        return small_client(models=str(tmp_path / "models"), backbones="glyphs,vector-identity", **changes)

    return make


@pytest.fixture(scope="session")
def glyphs(b64: Callable[[bytes], str]) -> Callable[..., dict[str, list[str]]]:
    """Drawings in base64, alike within a label: `glyphs("abc", shot=2, seed=0)`."""

    def make(labels: str = "abc", shot: int = 2, seed: int = 0) -> dict[str, list[str]]:
        return {label: [_glyph(ord(label), 1000 * seed + number, b64) for number in range(shot)] for label in labels}

    return make


def _glyph(shape: int, noise: int, b64: Callable[[bytes], str]) -> str:
    coarse = np.random.default_rng(shape).random((4, 4)) > 0.5
    ink = np.kron(coarse, np.ones((7, 7))) * 200 + np.random.default_rng(noise).integers(0, 50, (28, 28))
    buffer = io.BytesIO()
    Image.fromarray(ink.astype(np.uint8)).save(buffer, "PNG")
    return b64(buffer.getvalue())
