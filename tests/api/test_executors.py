"""Which executor runs a backbone is told, and changes no answer."""

import pytest
import torch
from starlette.testclient import TestClient

from app.config import Settings
from app.engine.executors.choose import COMPILED
from app.main import create_app

TEXTS = {
    "refund": ["I want my money back", "please refund the order", "how do I return this"],
    "login": ["I cannot log in", "my password does not work", "the account is locked"],
}
QUERIES = ["give me back what I paid", "sign in fails", "hello"]


@pytest.fixture
def serving(tmp_path):
    """Opens apps on one data folder; keyword arguments are settings."""

    def made(**changes):
        settings = Settings(data_dir=tmp_path, device="cpu", backbones="text-minilm", **changes)
        return TestClient(create_app(settings), raise_server_exceptions=False)

    return made


def predictions(client, task):
    answer = client.post(f"/v1/tasks/{task}/predict", json={"inputs": [{"text": one} for one in QUERIES]})
    assert answer.status_code == 200, answer.text
    return [
        {score["label"]: score["score"] for score in one["scores"]} | {"label": one["label"]}
        for one in answer.json()["predictions"]
    ]


@pytest.mark.parametrize("executor", COMPILED)
def test_a_task_made_with_torch_answers_the_same_by_another_executor(serving, executor):
    body = {"backbone": "text-minilm", "learner": "ridge"}
    support = [{"label": label, "text": text} for label, texts in TEXTS.items() for text in texts]
    with serving(executor="torch") as client:
        task = client.post("/v1/tasks", json={**body, "support": support}).json()["id"]
        wanted = predictions(client, task)
    with serving(executor=executor) as client:
        assert client.get("/v1/backbones/text-minilm").json()["executor"]["name"] == executor
        for one, other in zip(predictions(client, task), wanted, strict=True):
            assert one == pytest.approx(other, abs=1e-4)
        more = {"support": [{"label": "login", "text": "the code never arrives"}]}
        assert client.post(f"/v1/tasks/{task}/examples", json=more).status_code in (200, 201)
        mixed = predictions(client, task)
        again = [*support, {"label": "login", "text": "the code never arrives"}]
        fresh = client.post("/v1/tasks", json={**body, "support": again}).json()["id"]
        for one, other in zip(mixed, predictions(client, fresh), strict=True):
            assert one == pytest.approx(other, abs=1e-4)


def test_a_backbone_tells_what_runs_it_and_how_fast_that_was_measured(serving):
    with serving(executor="auto") as client:
        first = client.get("/v1/backbones/text-minilm").json()["executor"]
    assert first["name"] in ("torch", *COMPILED)
    assert first["precision"] == "float32"
    assert set(first["example_ms"]) == {"1", "8", "32"}
    with serving(executor="auto") as client:
        assert client.get("/v1/backbones").json()["backbones"][0]["executor"] == first


def test_torch_is_told_with_its_version(client):
    shown = client.get("/v1/backbones/vector-identity").json()["executor"]
    assert shown == {"name": "torch", "version": torch.__version__, "precision": "float32", "example_ms": {}}
