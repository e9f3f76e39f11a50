"""Bodies that come slowly, whole, cut short or twice: nothing is lost, nothing hangs."""

import asyncio
import gc
import json

import pytest

BOUNDARY = "x-imprint-boundary"
TYPE = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
VECTOR = {"backbone": "vector-identity", "learner": "protonet"}


def multipart(parts):
    lines = []
    for name, content in parts:
        lines += [f"--{BOUNDARY}".encode(), f'Content-Disposition: form-data; name="{name}"'.encode(), b"", content]
    return b"\r\n".join([*lines, f"--{BOUNDARY}--".encode(), b""])


class Slow:
    """Calls the app as a server would whose client sends a body in pieces, with pauses."""

    def __init__(self, app):
        self.app = app

    def post(self, path, query, headers, pieces, pause_s=0.08, then_leave=False):
        return asyncio.run_coroutine_threadsafe(
            self._post(path, query, headers, pieces, pause_s, then_leave), self.app.state.loop
        ).result(60)

    async def _post(self, path, query, headers, pieces, pause_s, then_leave):
        left = list(pieces)
        sent = []

        async def receive():
            if left:
                await asyncio.sleep(pause_s)
                piece = left.pop(0)
                return {"type": "http.request", "body": piece, "more_body": bool(left) or then_leave}
            if not then_leave:
                await asyncio.sleep(3600)
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "server": ("test", 80),
            "client": ("test", 1),
        }
        await asyncio.wait_for(self.app(scope, receive, send), 30)
        if not sent:
            return 0, {}
        return sent[0]["status"], json.loads(b"".join(one.get("body", b"") for one in sent[1:]))


@pytest.fixture
def slow(small_client):
    client = small_client()

    async def loop():
        return asyncio.get_running_loop()

    client.app.state.loop = client.portal.call(loop)
    return Slow(client.app), client


def test_a_body_that_comes_in_pieces_is_read_whole(slow):
    poster, _ = slow
    parts = [(label, json.dumps([number, int(label == "a")]).encode()) for label in "ab" for number in range(40)]
    body = multipart(parts)
    pieces = [body[start : start + len(body) // 6 + 1] for start in range(0, len(body), len(body) // 6 + 1)]
    status, task = poster.post("/v1/tasks", "backbone=vector-identity&learner=protonet", TYPE, pieces)
    assert status == 201, task
    assert task["shots"] == {"a": 40, "b": 40}


def test_json_that_comes_in_pieces_is_read_whole(slow):
    poster, _ = slow
    body = json.dumps({**VECTOR, "support": {"a": [[1.0, 2.0]], "b": [[2.0, 1.0]]}, "inputs": [[1.0, 2.0]]}).encode()
    pieces = [body[start : start + 20] for start in range(0, len(body), 20)]
    status, answer = poster.post("/v1/classify", "", {"content-type": "application/json"}, pieces, pause_s=0.03)
    assert status == 200, answer
    assert answer["predictions"][0]["label"] == "a"


def test_a_body_that_never_ends_is_504_at_the_deadline(slow):
    poster, _ = slow
    headers = {"content-type": "application/json", "x-deadline-ms": "300"}
    status, problem = poster.post("/v1/tasks", "", headers, [b"{", b" ", b" ", b" ", b" ", b" ", b" ", b" "])
    assert (status, problem["code"]) == (504, "deadline-passed")


def test_a_client_that_leaves_in_the_middle_of_its_body_leaves_nothing(slow):
    poster, client = slow
    body = multipart([("a", b"[1, 2]"), ("b", b"[2, 1]"), ("b", b"[3, 1]")])
    status, _ = poster.post("/v1/tasks", "backbone=vector-identity", TYPE, [body[:-60]], then_leave=True)
    assert status == 0
    assert client.get("/v1/tasks").json()["tasks"] == []


def test_a_slow_registry_does_not_make_a_request_hang(slow, monkeypatch):
    poster, client = slow
    task = client.post("/v1/tasks", json={**VECTOR, "support": {"a": [[1.0, 2.0]], "b": [[2.0, 1.0]]}}).json()
    predict = client.app.state.services.predict
    real = type(predict).bound

    async def slowly(self, task_id):
        await asyncio.sleep(0.2)
        return await real(self, task_id)

    monkeypatch.setattr(type(predict), "bound", slowly)
    headers = {"content-type": "application/json"}
    status, answer = poster.post(f"/v1/tasks/{task['id']}/predict", "", headers, [b'{"inputs": [[1, 2]]}'], pause_s=0)
    assert status == 200, answer


def test_a_deadline_also_ends_what_waits_for_the_registry(slow, monkeypatch):
    _, client = slow

    async def never(self, task_id):
        await asyncio.sleep(3600)

    monkeypatch.setattr(type(client.app.state.services.predict), "bound", never)
    response = client.post("/v1/tasks/tsk_x/predict", json={"inputs": [[1.0]]}, headers={"x-deadline-ms": "200"})
    assert (response.status_code, response.json()["code"]) == (504, "deadline-passed")


def test_a_multipart_body_cut_short_is_refused(client):
    body = multipart([("a", b"[1, 2]"), ("b", b"[2, 1]"), ("b", b"[3, 1]")])
    for cut in (body[:-10], body[:-60], body[: len(body) // 2]):
        response = client.post("/v1/tasks?backbone=vector-identity", content=cut, headers=TYPE)
        assert (response.status_code, response.json()["code"]) == (400, "bad-multipart")
        assert "cut short" in response.json()["detail"]


def test_text_fields_that_are_not_utf_8_are_refused_rather_than_guessed(client):
    body = multipart([("a", b"caf\xe9"), ("b", b"tea")])
    response = client.post("/v1/tasks?backbone=text-minilm", content=body, headers=TYPE)
    assert (response.status_code, response.json()["code"]) == (422, "not-utf8")
    assert response.json()["errors"][0]["pointer"] == "/support/a/0"


def test_too_many_parts_are_413(small_client):
    client = small_client(limits={"examples": 5})
    body = multipart([(str(number % 2), b"[1]") for number in range(6)])
    response = client.post("/v1/tasks?backbone=vector-identity", content=body, headers=TYPE)
    assert (response.status_code, response.json()["code"]) == (413, "too-many-parts")


@pytest.mark.parametrize(
    "body",
    [
        '{"backbone": "vector-identity", "support": {"a": [[1, 0]], "a": [[0, 1]], "b": [[2, 2]]}}',
        '{"backbone": "vector-identity", "support": {"a": [[1, 0]], "\\u0061": [[0, 1]], "b": [[2, 2]]}}',
    ],
)
def test_a_label_that_stands_twice_in_a_map_is_refused(client, body):
    response = client.post("/v1/tasks", content=body, headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["code"]) == (422, "repeated-name")
    assert response.json()["errors"][0]["pointer"] == "/support/a"


@pytest.mark.parametrize(
    "support",
    [
        '{"a": [[1, 0]], "b": [[2, 2]]}, "support": {"c": [[1, 0]], "d": [[2, 2]]}',
        '{"a/x": [[1, 0]], "a\\/x": [[0, 1]], "b": [[2, 2]]}',
        '[{"label": "a", "vector": [1, 0]}, {"label": "b", "vector": [1, 2], "vector": [1, 3]}]',
        '[{"label": "a", "vector": [1, 0]}, {"label": "a", "label": "b", "vector": [1, 3]}]',
    ],
)
def test_any_name_that_stands_twice_in_one_object_is_refused(client, support):
    body = f'{{"backbone": "vector-identity", "support": {support}}}'
    response = client.post("/v1/tasks", content=body, headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["code"]) == (422, "repeated-name")


@pytest.mark.parametrize("header", ["Content-Transfer-Encoding: base64", "Content-Type: multipart/mixed; boundary=y"])
def test_parts_that_would_be_misread_are_refused(client, header):
    body = multipart([("a", b"aGVsbG8="), ("b", b"tea")]).replace(b'name="a"', b'name="a"\r\n' + header.encode())
    response = client.post("/v1/tasks?backbone=text-minilm", content=body, headers=TYPE)
    assert (response.status_code, response.json()["code"]) == (400, "bad-multipart")


def test_a_boundary_longer_than_allowed_is_refused(client):
    headers = {"content-type": "multipart/form-data; boundary=" + "B" * 500}
    response = client.post("/v1/tasks?backbone=text-minilm", content=b"--B", headers=headers)
    assert (response.status_code, response.json()["code"]) == (400, "bad-multipart")


@pytest.mark.parametrize("step", ["begin", "finish"])
def test_a_deadline_while_a_key_is_written_leaves_it_whole(slow, monkeypatch, step):
    import time

    poster, client = slow
    keys = client.app.state.services.registry.idempotency
    real = getattr(type(keys), step)

    def slowly(self, *args):
        time.sleep(0.5)
        return real(self, *args)

    body = json.dumps({**VECTOR, "support": {"a": [[1.0, 2.0]], "b": [[2.0, 1.0]]}}).encode()
    headers = {"content-type": "application/json", "idempotency-key": "k"}
    with monkeypatch.context() as broken:
        broken.setattr(type(keys), step, slowly)
        status, _ = poster.post("/v1/tasks", "", {**headers, "x-deadline-ms": "300"}, [body], pause_s=0)
    stored = len(client.get("/v1/tasks").json()["tasks"])
    assert (status, stored) in ((201, 1), (504, 0))
    assert client.post("/v1/tasks", content=body, headers=headers).status_code == 201
    assert len(client.get("/v1/tasks").json()["tasks"]) == 1


def test_a_recorded_prediction_is_answered_even_when_its_deadline_passed_meanwhile(slow, monkeypatch):
    import time

    poster, client = slow
    task = client.post("/v1/tasks", json={**VECTOR, "support": {"a": [[1.0, 2.0]], "b": [[2.0, 1.0]]}}).json()
    registry = client.app.state.services.registry
    real = type(registry).record_predictions

    def slowly(self, rows):
        time.sleep(0.5)
        return real(self, rows)

    monkeypatch.setattr(type(registry), "record_predictions", slowly)
    headers = {"content-type": "application/json", "x-deadline-ms": "300"}
    body = b'{"inputs": [[1, 2]], "record": true}'
    status, answer = poster.post(f"/v1/tasks/{task['id']}/predict", "", headers, [body], pause_s=0)
    recorded = client.get(f"/v1/tasks/{task['id']}/predictions").json()["predictions"]
    assert status == 200
    assert [one["id"] for one in recorded] == [one["prediction_id"] for one in answer["predictions"]]


def test_keys_that_a_killed_process_left_open_are_free_again(small_client, tmp_path):
    client = small_client()
    keys = client.app.state.services.registry.idempotency
    keys.begin("left", "POST /v1/tasks?", "0" * 64)
    client.__exit__(None, None, None)
    again = small_client()
    body = {**VECTOR, "support": {"a": [[1.0]], "b": [[2.0]]}}
    assert again.post("/v1/tasks", json=body, headers={"idempotency-key": "left"}).status_code == 201


def test_a_label_that_also_stands_elsewhere_is_fine(client):
    body = {"backbone": "text-minilm", "support": {"name": ['the "name" of', "x"], "text": ["name", "text"]}}
    assert client.post("/v1/tasks", json=body).status_code == 201


def test_a_retry_under_one_key_while_the_first_is_cancelled_stores_once(slow, monkeypatch):
    poster, client = slow
    registry = client.app.state.services.registry
    real = type(registry).create_task

    def slowly(self, task, version):
        import time

        time.sleep(0.4)
        return real(self, task, version)

    monkeypatch.setattr(type(registry), "create_task", slowly)
    body = json.dumps({**VECTOR, "support": {"a": [[1.0, 2.0]], "b": [[2.0, 1.0]]}}).encode()
    headers = {"content-type": "application/json", "idempotency-key": "retry", "x-deadline-ms": "250"}
    first = poster.post("/v1/tasks", "", headers, [body], pause_s=0)
    again = client.post("/v1/tasks", content=body, headers={**headers, "x-deadline-ms": "20000"})
    assert again.status_code == 201
    assert len(client.get("/v1/tasks").json()["tasks"]) == 1
    assert first[0] == 201, "it could not be stopped any more, so it counts"
    gc.collect()
