"""One running app for the HTTP tests, and examples to send to it."""

import base64
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

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
