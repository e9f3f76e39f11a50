"""Catalogue, limits, health, metrics, documents."""

import json
import re
from pathlib import Path

from app.core.errors import Unavailable

ROOT = Path(__file__).parents[2]


def test_backbones_show_their_cards(client):
    shown = {one["name"]: one for one in client.get("/v1/backbones").json()["backbones"]}
    wanted = {"photo-efficientnet-lite0", "text-minilm", "vector-identity", "glyph-conv4-protonet"}
    assert wanted <= set(shown)
    for name, one in shown.items():
        assert len(one["sha256"]) == 64
        assert one["licence"]
        assert client.get(f"/v1/backbones/{name}").json() == one
        assert list(one["serves"]) == list(one["learners"])
        for learner, served in one["serves"].items():
            assert served["way"]["min"] >= one["way"]["min"]
            assert (served["sha256"] == one["sha256"]) is not served["own_weights"], learner
    assert shown["text-minilm"]["dim"] == 384
    missing = client.get("/v1/backbones/none")
    assert (missing.status_code, missing.json()["code"]) == (404, "backbone-not-found")


def test_learners_show_their_settings_paper_and_cost(client):
    shown = {one["name"]: one for one in client.get("/v1/learners").json()["learners"]}
    assert {"protonet", "ridge", "logistic", "matching"} <= set(shown)
    for one in shown.values():
        assert one["paper"]
        assert one["cost"]
        assert one["settings"]["type"] == "object"
    for name in ("protonet", "ridge", "logistic", "matching"):
        assert "vector-identity" in shown[name]["backbones"]
        assert shown[name]["adapts_weights"] is False


def test_limits_are_those_in_force(small_client):
    client = small_client(limits={"labels": 3})
    assert client.get("/v1/limits").json()["labels"] == 3
    support = {name: [[1.0]] for name in "abcd"}
    response = client.post("/v1/tasks", json={"backbone": "vector-identity", "support": support})
    assert (response.status_code, response.json()["code"]) == (413, "too-many-labels")


def test_an_update_cannot_grow_a_task_over_the_limits(small_client):
    client = small_client(limits={"labels": 3, "examples": 4})
    body = {"backbone": "vector-identity", "support": {"a": [[1.0]], "b": [[2.0]]}}
    task = client.post("/v1/tasks", json=body).json()
    for support, code in (
        ({"c": [[3.0]], "d": [[4.0]]}, "too-many-labels"),
        ({"a": [[3.0], [4.0], [5.0]]}, "too-many-examples"),
    ):
        response = client.post(f"/v1/tasks/{task['id']}/examples", json={"support": support})
        assert (response.status_code, response.json()["code"]) == (413, code)
    assert client.get(f"/v1/tasks/{task['id']}").json()["version"] == 1


def test_health_says_alive_and_ready(client):
    assert client.get("/livez").json() == {"status": "alive"}
    ready = client.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["engine"] == ready.json()["database"] == ready.json()["disk"] == "ok"


def test_a_broken_database_makes_not_ready_but_stays_alive(small_client, monkeypatch):
    client = small_client()

    def broken():
        raise Unavailable("The database cannot be used.")

    registry = client.app.state.services.registry
    monkeypatch.setattr(registry, "check", broken, raising=False)
    response = client.get("/readyz")
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert [one["pointer"] for one in response.json()["errors"]] == ["/database"]
    assert client.get("/livez").status_code == 200


def test_metrics_count_what_was_done_and_name_no_task(client, task, vectors):
    client.post(f"/v1/tasks/{task['id']}/predict", json={"inputs": vectors()["a"]})
    text = client.get("/metrics").text
    for name in (
        "imprint_http_requests_total",
        "imprint_http_request_seconds_bucket",
        "imprint_batches_total",
        "imprint_forwards_total",
        "imprint_queue_seconds_bucket",
        "imprint_device_seconds_bucket",
        "imprint_state_cache_bytes",
        "imprint_adaptations_total",
        "imprint_predictions_total",
        "imprint_admitted_examples",
        "imprint_refusals_total",
    ):
        assert name in text
    assert 'route="/v1/tasks/{task_id}/predict"' in text
    assert task["id"] not in text


def test_request_ids_are_taken_over_when_sane_and_made_otherwise(client):
    assert client.get("/livez", headers={"x-request-id": "abc-123"}).headers["x-request-id"] == "abc-123"
    made = client.get("/livez", headers={"x-request-id": "x y\tz" * 100}).headers["x-request-id"]
    assert len(made) == 32


def test_the_committed_openapi_document_is_the_servers(client):
    committed = json.loads((ROOT / "docs/openapi.json").read_text(encoding="utf-8"))
    served = client.get("/openapi.json").json()
    served["info"]["version"] = committed["info"]["version"]
    assert served == committed, "run `make openapi` and look at the difference"


def test_the_docs_page_needs_nothing_from_elsewhere(client):
    page = client.get("/")
    assert page.url.path == "/docs"
    links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(links) >= 3
    for link in links:
        assert link.startswith("/")
        assert client.get(link).status_code == 200


def test_every_route_and_setting_is_documented(client):
    from app.config import Settings
    from app.core.limits import Limits
    from app.engine.work import EngineSettings

    pages = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md"))
    for path, operations in client.get("/openapi.json").json()["paths"].items():
        assert path in pages, f"{path} is not documented"
        assert all(one.get("summary") for one in operations.values())
    for name in Settings.model_fields:
        assert f"IMPRINT_{name.upper()}" in pages, f"IMPRINT_{name.upper()} is not documented"
    for prefix, kind in (("LIMITS", Limits), ("ENGINE", EngineSettings)):
        for name in kind.__dataclass_fields__:
            assert f"IMPRINT_{prefix}__{name.upper()}" in pages, f"{prefix}__{name} is not documented"
