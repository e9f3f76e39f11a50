"""Failures, caused: the engine's thread dies, two servers on one folder, errors without a status."""

import re

import pytest

from app.api.errors import STATUS, status_of
from app.core.errors import ImprintError
from app.registry.ownership import DataFolderInUse


def subclasses(kind):
    for one in kind.__subclasses__():
        yield one
        yield from subclasses(one)


def test_every_error_has_a_status_and_a_stable_code(client):
    found = list(subclasses(ImprintError))
    assert len(found) > 40
    ours = {one.code for one in found if status_of(one.__new__(one)) == 500}
    assert ours == {
        "engine-failure",
        "stored-data-corrupt",
        "database-too-new",
    }, "all others belong to a family with a status of its own"
    assert set(STATUS) >= set(ImprintError.__subclasses__()) - {one for one in found if one.code in ours}
    for one in found:
        assert re.fullmatch(r"[a-z]+(-[a-z0-9]+)*", one.code), one
        assert one.title


def test_a_dead_device_thread_is_503_and_comes_back_by_itself(small_client, vectors, monkeypatch):
    client = small_client()
    support = vectors("ab")
    body = {"backbone": "vector-identity", "learner": "protonet", "support": support}
    task = client.post("/v1/tasks", json=body).json()
    url, query = f"/v1/tasks/{task['id']}/predict", {"inputs": support["a"]}
    from app.services import scoring

    def die(*args):
        raise SystemExit

    with monkeypatch.context() as broken:
        broken.setattr(scoring, "probabilities", die)
        response = client.post(url, json=query)
    assert (response.status_code, response.json()["code"]) == (503, "engine-down")
    assert int(response.headers["retry-after"]) >= 1
    assert client.get("/livez").status_code == 200
    assert client.post(url, json=query).status_code == 200
    assert client.get("/readyz").status_code == 200
    assert "imprint_engine_restarts_total 1.0" in client.get("/metrics").text


def test_a_head_that_fails_is_a_500_for_its_own_request_alone(small_client, vectors, monkeypatch):
    client = small_client()
    support = vectors("ab")
    task = client.post("/v1/tasks", json={"backbone": "vector-identity", "support": support}).json()
    from app.services import scoring

    with monkeypatch.context() as broken:
        broken.setattr(scoring, "probabilities", lambda *args: 1 / 0)
        response = client.post(f"/v1/tasks/{task['id']}/predict", json={"inputs": support["a"]})
    assert (response.status_code, response.json()["code"]) == (500, "engine-failure")
    assert "ZeroDivision" not in response.text
    assert client.post(f"/v1/tasks/{task['id']}/predict", json={"inputs": support["a"]}).status_code == 200


def test_a_full_queue_is_429_with_retry_after_and_leaves_health_alone(small_client, vectors, monkeypatch):
    import threading
    from concurrent.futures import ThreadPoolExecutor

    from app.services import scoring

    client = small_client(engine={"queue_examples": 4})
    support = vectors("ab")
    task = client.post("/v1/tasks", json={"backbone": "vector-identity", "support": support}).json()
    url = f"/v1/tasks/{task['id']}/predict"
    gate, entered = threading.Event(), threading.Event()
    real = scoring.probabilities

    def wait(*args):
        entered.set()
        gate.wait(20)
        return real(*args)

    monkeypatch.setattr(scoring, "probabilities", wait)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(client.post, url, json={"inputs": support["a"][:1]})
        assert entered.wait(20)
        second = pool.submit(client.post, url, json={"inputs": support["a"][:4]})
        while client.app.state.services.engine.health().queue_examples < 4:
            pass
        refused = client.post(url, json={"inputs": support["a"][:1]})
        health = [client.get("/livez").status_code, client.get("/readyz").status_code]
        gate.set()
        answers = [first.result().status_code, second.result().status_code]
    assert (refused.status_code, refused.json()["code"]) == (429, "queue-full")
    assert int(refused.headers["retry-after"]) >= 1
    assert health == [200, 200]
    assert answers == [200, 200]


def test_a_second_server_on_the_same_folder_is_refused(small_client):
    small_client()
    with pytest.raises(DataFolderInUse, match="IMPRINT_DATA_DIR"):
        small_client()


def test_a_full_disk_is_507_and_nothing_is_stored(small_client, vectors, monkeypatch):
    import errno
    import os

    client = small_client()
    long = [[float(number)] * 16_000 for number in range(2)]
    support = {"a": long[:1], "b": long[1:]}  # inputs large enough to be blobs

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", full)
        response = client.post("/v1/tasks", json={"backbone": "vector-identity", "support": support})
    assert (response.status_code, response.json()["code"]) == (507, "storage-full")
    assert client.get("/v1/tasks").json()["tasks"] == []
    assert client.post("/v1/tasks", json={"backbone": "vector-identity", "support": support}).status_code == 201
