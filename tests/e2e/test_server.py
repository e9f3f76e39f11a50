"""What only a real process shows: restarts, kill -9, clients that leave, the demo."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from app.demo.show import LOG

ROOT = Path(__file__).parents[2]
TEXTS = {"late": ["where is my parcel", "it has not come"], "money": ["give me a refund", "you charged me twice"]}
VECTORS = {"a": [[0.0, 1.0], [0.1, 0.9]], "b": [[1.0, 0.0], [0.8, 0.2]], "c": [[5.0, 5.0], [5.0, 6.0]]}
LEARNERS = ("protonet", "ridge", "logistic", "matching", "auto")


def make(client, backbone="vector-identity", support=VECTORS, **more):
    response = client.post("/v1/tasks", json={"backbone": backbone, "support": support, **more})
    assert response.status_code == 201, response.text
    return response.json()


def predictions(client, task, inputs):
    response = client.post(f"/v1/tasks/{task['id']}/predict", json={"inputs": inputs})
    assert response.status_code == 200, response.text
    return response.json()["predictions"]


def test_a_restart_after_kill_9_serves_every_task_with_identical_answers(serve):
    server = serve(backbones="vector-identity,text-minilm")
    tasks = [(make(server.client, learner=one), [[0.3, 0.6], [2.0, 2.0]]) for one in LEARNERS]
    tasks.append((make(server.client, "text-minilm", TEXTS), ["my box is late", "my money please"]))
    server.client.post(f"/v1/tasks/{tasks[0][0]['id']}/examples", json={"support": {"d": [[9.0, -9.0]]}})
    before = [predictions(server.client, task, inputs) for task, inputs in tasks]
    shown = [server.client.get(f"/v1/tasks/{task['id']}").json() for task, _ in tasks]
    server.kill()
    again = serve(backbones="vector-identity,text-minilm")
    assert [again.client.get(f"/v1/tasks/{task['id']}").json() for task, _ in tasks] == shown
    assert [predictions(again.client, task, inputs) for task, inputs in tasks] == before


def test_kill_9_in_the_middle_of_writes_leaves_only_whole_tasks(serve):
    server = serve()
    acknowledged = []
    stop = threading.Event()

    def write():
        with httpx.Client(base_url=server.url, timeout=10) as client:
            while not stop.is_set():
                try:
                    acknowledged.append(make(client, learner="protonet")["id"])
                except (httpx.TransportError, AssertionError):
                    return

    writers = [threading.Thread(target=write) for _ in range(3)]
    for one in writers:
        one.start()
    while len(acknowledged) < 10:
        time.sleep(0.01)
    server.kill()
    stop.set()
    for one in writers:
        one.join()
    again = serve()
    listed, cursor = [], None
    while True:
        page = again.client.get("/v1/tasks", params={"limit": 200, **({"cursor": cursor} if cursor else {})}).json()
        listed += page["tasks"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert set(acknowledged) <= {one["id"] for one in listed}
    for one in listed:
        assert predictions(again.client, one, [[0.0, 1.0]])[0]["label"] == "a"


def test_a_task_whose_backbone_changed_is_a_409_that_says_what_to_do(serve, tmp_path):
    models = tmp_path / "models"
    shutil.copytree(ROOT / "models/vector-identity", models / "mine")
    card_path = models / "mine/card.json"
    card = json.loads(card_path.read_text())
    card["name"] = "mine"
    card_path.write_text(json.dumps(card))
    server = serve(models=str(models), backbones="mine")
    task = make(server.client, "mine")
    server.kill()
    other = ROOT / "models/glyph-conv4-protonet"
    shutil.rmtree(models / "mine")
    shutil.copytree(other, models / "mine")
    card = json.loads(card_path.read_text())
    card_path.write_text(json.dumps({**card, "name": "mine"}))
    again = serve(models=str(models), backbones="mine")
    response = again.client.post(f"/v1/tasks/{task['id']}/predict", json={"inputs": [[1.0, 2.0]]})
    assert (response.status_code, response.json()["code"]) == (409, "backbone-mismatch")
    assert "create the task again from its examples" in response.json()["detail"]
    assert again.client.get(f"/v1/tasks/{task['id']}").status_code == 200


def test_a_client_that_leaves_stores_nothing(serve):
    server = serve(backbones="text-minilm,vector-identity", threads="1")
    texts = [f"sentence {number} " + "with quite some words " * 30 for number in range(600)]
    body = json.dumps({"backbone": "text-minilm", "support": {"a": texts[:300], "b": texts[300:]}}).encode()
    head = (
        f"POST /v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + body)
        time.sleep(0.5)
    answer = make(server.client)  # rides behind what is left of the big adaptation
    listed = server.client.get("/v1/tasks").json()["tasks"]
    assert [one["id"] for one in listed] == [answer["id"]]
    assert 'status="0"' in server.client.get("/metrics").text


def test_sigterm_ends_the_server_in_good_order(serve, tmp_path):
    server = serve()
    make(server.client)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(timeout=30) in (0, -signal.SIGTERM)
    log = (tmp_path / "data" / LOG).read_text()
    assert '"event":"stopped"' in log.replace(" ", "")
    assert "Traceback" not in log


def test_the_server_refuses_to_be_reached_by_others_without_being_told_to(tmp_path):
    command = [sys.executable, "-m", "app", "serve", "--host", "0.0.0.0", "--port", "0"]
    done = subprocess.run(
        command, env={**os.environ, "IMPRINT_DATA_DIR": str(tmp_path)}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "IMPRINT_ALLOW_OPEN_BIND" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_second_server_on_one_folder_is_refused_in_one_sentence(serve, tmp_path):
    serve()
    done = subprocess.run(
        [sys.executable, "-m", "app", "serve", "--port", "0"],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "IMPRINT_DATA_DIR": str(tmp_path / "data")},
    )
    assert done.returncode == 2
    assert "IMPRINT_DATA_DIR" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_demo_makes_two_good_classifiers_and_stops(tmp_path):
    environment = {**os.environ, "COLUMNS": "160", "IMPRINT_DATA_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "app", "demo", "--once", "--port", "0"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (digits,) = [line for line in done.stdout.splitlines() if "handwritten digits (10" in line and "%" in line]
    (tickets,) = [line for line in done.stdout.splitlines() if "support tickets (6" in line and "%" in line]
    assert _percent(digits) > 60
    assert _percent(tickets) > 75


def _percent(line):
    return float(next(part for part in line.split() if part.endswith("%"))[:-1])


def test_the_doctor_finds_this_machine_fit(tmp_path):
    environment = {**os.environ, "IMPRINT_DATA_DIR": str(tmp_path), "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-m", "app", "doctor"], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "BAD" not in done.stdout
    for part in ("device", "text-minilm", "SQLite", "disk"):
        assert part in done.stdout


@pytest.mark.parametrize(("settings", "stays"), [({}, True), ({"keep_alive_s": "1"}, False)], ids=["75 s", "1 s"])
def test_an_idle_connection_is_kept_as_long_as_the_settings_say(serve, settings, stays):
    url = httpx.URL(serve(**settings).url)
    with socket.create_connection((url.host, url.port), timeout=20) as connection:

        def asked() -> bytes:
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: here\r\n\r\n")
            return connection.recv(1 << 16)

        assert asked().startswith(b"HTTP/1.1 200")
        if stays:
            time.sleep(6)  # uvicorn by itself would keep it for 5 s
            assert asked().startswith(b"HTTP/1.1 200")
        else:
            assert connection.recv(1) == b"", "closed by the server"


def test_logs_are_json_lines_with_the_request_id(serve, tmp_path):
    server = serve(log_format="json")
    server.client.get("/v1/limits", headers={"x-request-id": "find-me-in-the-log"})
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(timeout=30)
    lines = (tmp_path / "data" / LOG).read_text().splitlines()
    parsed = [json.loads(line) for line in lines]
    (request,) = [one for one in parsed if one.get("request_id") == "find-me-in-the-log"]
    assert (request["event"], request["status"], request["path"]) == ("request", 200, "/v1/limits")
