"""A real server that adapts weights: clients that leave, and kill -9."""

import base64
import io
import json
import socket
import time

import numpy as np
import pytest
from PIL import Image

from app.backbones import build
from app.checkpoints.card import Card
from app.checkpoints.save import save

STEPS = 1000
RATES = {"learning_rate": 1e-4, "head_learning_rate": 1e-4}


@pytest.fixture
def serve_glyphs(serve, tmp_path):
    """Starts servers with an untrained checkpoint `glyphs`."""
    backbone = build("conv4", {})
    card = Card(
        name="glyphs",
        description="For tests.",
        architecture="conv4",
        modality="image",
        dim=64,
        preprocessing={"height": 28, "width": 28, "channels": 1, "resize": "stretch"},
        weights=None,
        sha256=None,
        learners={"protonet": {}, "maml": RATES},
        licence="Apache-2.0",
        provenance="Random numbers.",
    )
    save(tmp_path / "models", card, backbone.state_dict())
    return lambda: serve(models=str(tmp_path / "models"), backbones="glyphs")


def drawing(seed):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (28, 28), np.uint8)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def body_of(steps, **more):
    support = {"a": [drawing(0), drawing(1)], "b": [drawing(2), drawing(3)]}
    settings = {"steps": steps}
    return {"backbone": "glyphs", "learner": "maml", "learner_settings": settings, "support": support, **more}


def begin(server):
    """Ask for a long adaptation, and give the connection once it is under way."""
    body = json.dumps(body_of(STEPS, name="long")).encode()
    head = (
        f"POST /v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    connection.sendall(head.encode() + body)
    time.sleep(0.5)
    return connection


def names(client):
    return [one["name"] for one in client.get("/v1/tasks").json()["tasks"]]


def test_an_adaptation_whose_client_left_or_whose_server_was_killed_leaves_nothing(serve_glyphs):
    server = serve_glyphs()
    kept = server.client.post("/v1/tasks", json=body_of(3, name="kept"))
    assert kept.status_code == 201, kept.text
    url, query = f"/v1/tasks/{kept.json()['id']}/predict", {"inputs": [drawing(0), drawing(9)]}
    before = server.client.post(url, json=query).json()["predictions"]

    begin(server).close()
    light = {**body_of(0, name="light"), "learner": "protonet", "learner_settings": {}}
    assert server.client.post("/v1/tasks", json=light).status_code == 201
    assert names(server.client) == ["light", "kept"]
    metrics = server.client.get("/metrics").text
    assert 'status="0"' in metrics
    assert "imprint_engine_restarts_total 0.0" in metrics

    connection = begin(server)
    server.kill()
    connection.close()
    again = serve_glyphs()
    assert names(again.client) == ["light", "kept"]
    assert again.client.post(url, json=query).json()["predictions"] == before
