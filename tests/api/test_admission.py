"""Overload, caused: what would wait too long is refused at its arrival, and what has gone is not counted."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
from starlette.testclient import TestClient

from app.config import Settings
from app.main import create_app
from app.services.admission import AT_FIRST

BACKBONE = "vector-identity"
FULL = AT_FIRST
PATIENCE_S = 20.0


@pytest.fixture
def full(small_client: Callable[..., TestClient], vectors: Callable[..., Any]) -> Iterator[tuple[TestClient, str, str]]:
    """A server with as much waiting for one task as may wait, the path of that task, and that of another."""
    client = small_client()
    loud, quiet = (task_of(client, vectors("ab", seed=seed)) for seed in (0, 1))
    with client.app.state.services.admission.admitted(BACKBONE, loud, FULL):  # type: ignore[attr-defined]
        yield client, f"/v1/tasks/{loud}", f"/v1/tasks/{quiet}"


def task_of(client: TestClient, support: object) -> str:
    response = client.post("/v1/tasks", json={"backbone": BACKBONE, "learner": "protonet", "support": support})
    assert response.status_code == 201, response.text
    return str(response.json()["id"])


def waiting(client: TestClient) -> float:
    """What the gauge shows."""
    text = client.get("/metrics").text
    found = [line for line in text.splitlines() if line.startswith("imprint_admitted_examples{")]
    return sum(float(line.rpartition(" ")[2]) for line in found)


def refusals(client: TestClient) -> float:
    text = client.get("/metrics").text
    found = [line for line in text.splitlines() if line.startswith("imprint_refusals_total{")]
    return sum(float(line.rpartition(" ")[2]) for line in found)


def test_predictions_and_updates_of_a_task_with_a_backlog_are_refused(full, vectors):
    client, loud, _ = full
    inputs = vectors("a")["a"]
    query = ",".join(map(str, inputs[0]))
    before = refusals(client)
    answers = [
        client.post(f"{loud}/predict", json={"inputs": inputs}),
        client.get(f"{loud}/predict?vector={query}"),
        client.post(f"{loud}/examples", json={"support": vectors("ab", seed=7)}),
        client.delete(f"{loud}/labels/a"),
    ]
    for response in answers:
        assert (response.status_code, response.json()["code"]) == (429, "queue-full")
        assert int(response.headers["retry-after"]) >= 1
    assert refusals(client) - before == len(answers)
    assert waiting(client) == FULL
    assert client.get(loud).json()["version"] == 1


def test_others_get_in_beside_the_backlog_of_one_task(full, vectors):
    client, _, quiet = full
    inputs = vectors("a")["a"]
    assert client.post(f"{quiet}/predict", json={"inputs": inputs}).status_code == 200
    assert client.post(f"{quiet}/examples", json={"support": vectors("ab", seed=7)}).status_code == 200
    body = {"backbone": BACKBONE, "support": vectors("ab", seed=8)}
    assert client.post("/v1/tasks", json=body).status_code == 201
    assert client.post("/v1/classify", json={**body, "inputs": inputs}).status_code == 200
    assert waiting(client) == FULL


def test_large_requests_that_stand_for_themselves_are_refused_as_a_whole(full, vectors):
    client, _, quiet = full
    many = [[float(number), 1.0] for number in range(FULL)]
    items = [{"task": quiet.rpartition("/")[2], "vector": vectors("a")["a"][0]}] * FULL
    support = {"a": many, "b": [[-1.0, -1.0]]}
    for path, body in (
        ("/v1/predict", {"items": items}),
        ("/v1/tasks", {"backbone": BACKBONE, "support": support}),
        ("/v1/classify", {"backbone": BACKBONE, "support": {"a": [[1.0]], "b": [[2.0]]}, "inputs": [[1.0]] * FULL}),
    ):
        assert client.post(path, json=body).status_code == 429, path
    assert waiting(client) == FULL


def test_a_full_server_is_alive_and_ready_and_shows_what_it_holds(full):
    client, loud, _ = full
    for path in ("/livez", "/readyz", "/metrics", loud, "/v1/tasks", f"{loud}/examples", "/v1/limits"):
        assert client.get(path).status_code == 200
    assert client.patch(loud, json={"name": "new"}).status_code == 200
    assert client.delete(loud).status_code == 204


def test_the_largest_legal_request_gets_in_where_nothing_waits(small_client, vectors):
    client = small_client()
    task = task_of(client, vectors("ab"))
    inputs = [vectors("a")["a"][0]] * client.get("/v1/limits").json()["inputs"]
    assert len(inputs) > FULL
    assert client.post(f"/v1/tasks/{task}/predict", json={"inputs": inputs}).status_code == 200
    items = [{"task": task, "vector": inputs[0]}] * len(inputs)
    answered = client.post("/v1/predict", json={"items": items}).json()["items"]
    assert all("prediction" in one for one in answered)
    assert waiting(client) == 0


def test_errors_and_passed_deadlines_leave_nothing_counted(small_client, vectors, monkeypatch):
    from app.services import scoring

    client = small_client()
    path = f"/v1/tasks/{task_of(client, vectors('ab'))}/predict"
    inputs = vectors("a")["a"]
    assert client.post(path, json={"inputs": [*inputs, [1.0]]}).status_code == 422
    gate = threading.Event()
    real = scoring.probabilities

    def slowly(*args: Any) -> Any:
        gate.wait(PATIENCE_S)
        return real(*args)

    with monkeypatch.context() as slow:
        slow.setattr(scoring, "probabilities", slowly)
        late = client.post(path, json={"inputs": inputs}, headers={"x-deadline-ms": "100"})
        gate.set()
    assert (late.status_code, late.json()["code"]) == (504, "deadline-passed")
    with monkeypatch.context() as broken:
        broken.setattr(scoring, "probabilities", lambda *_: 1 / 0)
        assert client.post(path, json={"inputs": inputs}).status_code == 500
    assert waiting(client) == 0
    assert client.post(path, json={"inputs": inputs}).status_code == 200


@contextmanager
def listening(settings: Settings) -> Iterator[tuple[uvicorn.Server, TestClient, int]]:
    """A real server in a thread, a client beside it, its port."""
    app = create_app(settings)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off"))
        with TestClient(app) as client:  # runs the lifespan
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
            thread.start()
            try:
                until(lambda: server.started)
                yield server, client, listener.getsockname()[1]
            finally:
                server.should_exit = True
                thread.join(PATIENCE_S)


def until(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def head(path: str, *headers: str) -> bytes:
    return "\r\n".join(
        [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", *headers, "", ""]
    ).encode()


def answer_of(connection: socket.socket) -> str:
    """One answer, its body by Content-Length."""
    got = b""
    while b"\r\n\r\n" not in got:
        got += connection.recv(65_536) or pytest.fail("the server closed")
    top, _, body = got.partition(b"\r\n\r\n")
    (size,) = [int(line.split(b":")[1]) for line in top.lower().split(b"\r\n") if line.startswith(b"content-length")]
    while len(body) < size:
        body += connection.recv(65_536) or pytest.fail("the server closed")
    return top.decode().lower()


def test_a_refusal_comes_before_the_body_and_leaves_the_connection_of_use(tmp_path, vectors):
    with listening(Settings(data_dir=tmp_path, device="cpu", backbones=BACKBONE)) as (_, client, port):
        task = task_of(client, vectors("ab"))
        path, body = f"/v1/tasks/{task}/predict", b'{"inputs": [[' + b"1," * 150_000 + b"1]]}"
        length = f"Content-Length: {len(body)}"
        admission = client.app.state.services.admission
        with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as connection:
            with admission.admitted(BACKBONE, task, FULL):
                connection.sendall(head(path, length))
                top = answer_of(connection)
                assert top.startswith("http/1.1 429")
                assert "connection: close" not in top
                connection.sendall(body)
            connection.sendall(head(path, "Content-Length: 2") + b"{}")
            assert answer_of(connection).startswith("http/1.1 422"), "the next request is read as such"
        for headers in ([f"Content-Length: {2 * 1024 * 1024}"], ["Transfer-Encoding: chunked"]):
            with (
                socket.create_connection(("127.0.0.1", port), PATIENCE_S) as connection,
                admission.admitted(BACKBONE, task, FULL),
            ):
                connection.sendall(head(path, *headers))
                assert "connection: close" in answer_of(connection), "nobody waits for the rest of a large body"


def test_a_client_that_leaves_is_not_counted(tmp_path, vectors, monkeypatch):
    from app.services import scoring

    gate, entered = threading.Event(), threading.Event()

    def wait(*_: Any) -> Any:
        entered.set()
        gate.wait(PATIENCE_S)
        raise ValueError

    with listening(Settings(data_dir=tmp_path, device="cpu", backbones=BACKBONE)) as (_, client, port):
        task = task_of(client, vectors("ab"))
        monkeypatch.setattr(scoring, "probabilities", wait)
        body = b'{"inputs": [[1, 2, 3, 4, 5, 6, 7, 8]]}'
        path = f"/v1/tasks/{task}/predict"
        try:
            with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as connection:
                connection.sendall(head(path, f"Content-Length: {len(body)}") + body)
                assert entered.wait(PATIENCE_S)
                assert waiting(client) == 1
            until(lambda: waiting(client) == 0)
        finally:
            gate.set()


def test_requests_at_once_are_all_counted_off(small_client, vectors):
    client = small_client()
    path = f"/v1/tasks/{task_of(client, vectors('ab'))}/predict"
    inputs = vectors("a")["a"]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: client.post(path, json={"inputs": inputs}).status_code, range(64)))
    assert answers == [200] * 64
    assert waiting(client) == 0
