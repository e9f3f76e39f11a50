"""Predictions go straight past the framework: nothing of what the framework does may be missed."""

import asyncio
import gc
import re
from collections.abc import Callable

import pytest
from starlette.testclient import TestClient

from app.api.deps import WATCH_AFTER_S, _Watch
from app.api.headers import Asked
from app.api.routes import predictions
from app.core.errors import ImprintError
from app.services.admission import AT_FIRST


@pytest.fixture
def ways(client: TestClient) -> tuple[TestClient, TestClient]:
    """The server as it is, and the framework alone with what it calls for the same path."""
    return client, TestClient(client.app._framework, raise_server_exceptions=False)  # type: ignore[attr-defined]


ASKED = {
    "an answer": {"json": {"inputs": [[0.0] * 8], "top_k": 2}},
    "several inputs": {"json": {"inputs": [[0.0] * 8, {"vector": [1.0] * 8}]}},
    "a bare vector": {"content": b"[0, 0, 0, 0, 0, 0, 0, 0]", "headers": {"content-type": "text/plain"}},
    "no body": {"content": b""},
    "no JSON": {"content": b"{", "headers": {"content-type": "application/json"}},
    "a field too many": {"json": {"inputs": [[0.0] * 8], "colour": 1}},
    "a name twice": {"content": b'{"inputs": [[0,0,0,0,0,0,0,0]], "top_k": 1, "top_k": 2}'},
    "another size": {"json": {"inputs": [[0.0]]}},
    "no number": {"json": {"inputs": [[0.0] * 7 + ["x"]]}},
    "true for a number": {"json": {"inputs": [[0.0] * 7 + [True]]}},
    "beyond float32": {"json": {"inputs": [[0.0] * 7 + [1e300]]}},
    "a parameter that is not known": {"json": {"inputs": [[0.0] * 8]}, "params": {"colour": "red"}},
    "an option in the query": {"json": {"inputs": [[0.0] * 8]}, "params": {"top_k": "2"}},
    "a deadline that is none": {"json": {"inputs": [[0.0] * 8]}, "headers": {"x-deadline-ms": "soon"}},
    "a key that is none": {"json": {"inputs": [[0.0] * 8]}, "headers": {"idempotency-key": "a b"}},
    "a form": {"data": {"a": "b"}},
    "a coding": {"content": b"x", "headers": {"content-encoding": "br"}},
}


@pytest.mark.parametrize("case", ASKED)
def test_both_ways_give_the_same_answer(ways, task, case):
    straight, framework = (
        one.post(f"/v1/tasks/{task['id']}/predict", **ASKED[case])  # type: ignore[arg-type]
        for one in ways
    )
    assert straight.status_code == framework.status_code
    assert comparable(straight.json()) == comparable(framework.json())
    assert set(straight.headers) == set(framework.headers)
    assert straight.headers["content-type"] == framework.headers["content-type"]


def comparable(answer: dict[str, object]) -> dict[str, object]:
    """Without what differs from request to request."""
    return {name: value for name, value in answer.items() if name not in ("timing", "request_id")}


@pytest.mark.parametrize("method", ["put", "delete", "patch", "options"])
def test_other_methods_are_the_frameworks(client, task, method):
    response = getattr(client, method)(f"/v1/tasks/{task['id']}/predict")
    assert response.status_code == 405
    assert response.headers["allow"] == "GET, HEAD, POST"


@pytest.mark.parametrize("path", ["/v1/tasks/a/b/predict", "/v1/tasks//predict", "/v1/tasks/a/predict/"])
def test_paths_that_only_look_like_it_are_not_found(client, path):
    response = client.post(path, json={"inputs": [[1.0]]})
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"


def test_it_is_counted_under_its_route_and_passes_the_framework_by(client, task, monkeypatch):
    path = f"/v1/tasks/{task['id']}/predict"
    before = counted(client)
    calls: list[str] = []

    async def refused(scope: dict[str, object], receive: Callable[..., object], send: Callable[..., object]) -> None:
        calls.append(str(scope["path"]))

    with monkeypatch.context() as patched:
        patched.setattr(client.app, "_framework", refused)
        assert client.post(path, json={"inputs": [[0.0] * 8]}).status_code == 200
    assert not calls
    assert counted(client) == before + 1


def counted(client: TestClient) -> float:
    """Predictions that were answered, by the metrics."""
    template = re.escape(predictions.router.prefix + "/tasks/{task_id}/predict")
    pattern = rf'imprint_http_requests_total\{{method="POST",route="{template}",status="200"\}} ([0-9.]+)'
    found = re.search(pattern, client.get("/metrics").text)
    return float(found[1]) if found else 0.0


def test_a_failure_that_nobody_foresaw_is_a_problem_document(client, task, monkeypatch):
    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the details are for the log")

    monkeypatch.setattr(type(client.app.state.services.predict), "predict", broken)
    response = client.post(f"/v1/tasks/{task['id']}/predict", json={"inputs": [[0.0] * 8]})
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    assert "details" not in response.json()["detail"].replace("its log has the details", "")


def test_a_known_failure_that_is_ours_is_logged_with_its_cause(client, task, monkeypatch, capsys):
    async def broken(*_: object, **__: object) -> None:
        raise ImprintError("A stored state is damaged.") from OSError("read of a broken disk")

    monkeypatch.setattr(type(client.app.state.services.predict), "predict", broken)
    assert client.post(f"/v1/tasks/{task['id']}/predict", json={"inputs": [[0.0] * 8]}).status_code == 500
    shown = capsys.readouterr()
    assert "read of a broken disk" in shown.out + shown.err


def test_a_log_that_cannot_be_written_fails_no_request(client, task, monkeypatch):
    class Full:
        def write(self, line: str) -> int:
            raise OSError(28, "No space left on device")

        def flush(self) -> None: ...

    monkeypatch.setattr("app.api.logs._Lines.straight", True)
    monkeypatch.setattr("sys.stderr", Full())
    assert client.post(f"/v1/tasks/{task['id']}/predict", json={"inputs": [[0.0] * 8]}).status_code == 200


REFUSED = {
    "too much waits": ({}, {"json": {"inputs": [[0.0] * 8]}}, 429),
    "no such vector": ({}, {"json": {"inputs": [[0.0]]}}, 422),
    "no JSON": ({}, {"content": b"{"}, 400),
    "too late": ({"x-deadline-ms": "1"}, {"json": {"inputs": [[0.0] * 8]}}, 504),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_freed_at_once(client, task, monkeypatch, case):
    """Its body may be large, and the garbage collector seldom looks at what stayed for a while."""
    headers, asked, status = REFUSED[case]
    if case == "too late":

        async def slowly(*_: object, **__: object) -> None:
            await asyncio.sleep(20)

        monkeypatch.setattr(type(client.app.state.services.predict), "predict", slowly)
    admission = client.app.state.services.admission
    room = AT_FIRST if case == "too much waits" else 1
    gc.collect()
    gc.disable()
    try:
        with admission.admitted("vector-identity", task["id"], room):
            for _ in range(3):
                path = f"/v1/tasks/{task['id']}/predict"
                assert client.post(path, headers=headers, **asked).status_code == status
        assert [one for one in gc.get_objects() if type(one) is Asked] == []
    finally:
        gc.enable()


def test_what_took_a_while_is_freed_with_its_answer(client, task, monkeypatch):
    """A coroutine looked for its client meanwhile: nothing of it stays behind."""
    service = type(client.app.state.services.predict)
    predict = service.predict

    async def slowly(*given: object, **asked: object) -> object:
        await asyncio.sleep(3 * WATCH_AFTER_S)
        return await predict(*given, **asked)

    monkeypatch.setattr(service, "predict", slowly)
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            answer = client.post(f"/v1/tasks/{task['id']}/predict", json={"inputs": [[0.0] * 8]})
            assert answer.status_code == 200
        assert [one for one in gc.get_objects() if type(one) in {Asked, _Watch}] == []
    finally:
        gc.enable()
