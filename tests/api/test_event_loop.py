"""What is large is done beside the event loop, which serves all others meanwhile; what is small where it is."""

import threading

import pytest
from starlette.testclient import TestClient

from app.api import responses
from app.api.responses import SMALL_SCORES
from app.config import Settings
from app.main import create_app
from app.services import embedding_cache
from app.services.builder import LearnerBuilder
from app.services.catalogue import Catalogue
from app.services.embedding_cache import Recalled


@pytest.fixture
def loop_of(monkeypatch):
    """Watches a function: whether each call of it was on a pool's thread, by the pool's name, or on the loop's."""

    def watch(owner, name):
        real, threads = getattr(owner, name), []

        def watched(*args, **kwargs):
            threads.append(threading.current_thread().name.rpartition("_")[0])
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, watched)
        return threads

    return watch


def beside(threads):
    return [name.startswith("imprint-") for name in threads]


def created(client, support):
    made = client.post("/v1/tasks", json={"backbone": "vector-identity", "learner": "protonet", "support": support})
    assert made.status_code == 201, made.text
    return made.json()["id"]


def test_an_answer_of_many_scores_is_written_in_a_thread(small_client, vectors, loop_of):
    client = small_client()
    task = created(client, vectors("abc"))
    threads = loop_of(responses, "json_response")
    (query,) = vectors("a", shot=1, seed=9)["a"]
    few, many = [query], [query] * (SMALL_SCORES // 3 + 1)
    for inputs in (few, many):
        found = client.post(f"/v1/tasks/{task}/predict", json={"inputs": inputs, "top_k": 3})
        assert len(found.json()["predictions"]) == len(inputs)
    assert beside(threads) == [False, True]
    items = [{"task": task, "vector": query}]
    for listed in (items, items * (SMALL_SCORES // 3 + 1)):
        found = client.post("/v1/predict", json={"items": listed})
        assert [one["prediction"]["label"] for one in found.json()["items"]] == ["a"] * len(listed)
    assert beside(threads[2:]) == [False, True]
    for inputs in (few, many):
        body = {"backbone": "vector-identity", "learner": "protonet", "support": vectors("abc"), "inputs": inputs}
        found = client.post("/v1/classify", json=body)
        assert [one["label"] for one in found.json()["predictions"]] == ["a"] * len(inputs)
    assert beside(threads[4:]) == [False, True]


def test_one_input_may_have_many_scores(small_client, vectors, loop_of):
    client = small_client()
    support = {f"{number:03}": [[float(number), 1.0], [float(number), 2.0]] for number in range(SMALL_SCORES + 1)}
    task = created(client, support)
    threads = loop_of(responses, "json_response")
    found = client.post(f"/v1/tasks/{task}/predict", json={"inputs": [[1.0, 1.0]], "top_k": SMALL_SCORES + 1})
    assert len(found.json()["predictions"][0]["scores"]) == SMALL_SCORES + 1
    assert beside(threads) == [True]


@pytest.mark.parametrize("small", [True, False])
def test_a_large_set_of_which_some_is_known_is_shortened_in_a_thread(glyph_client, glyphs, loop_of, monkeypatch, small):
    client = glyph_client({"protonet": {}})
    if not small:
        monkeypatch.setattr(embedding_cache, "_SMALL_BYTES", 1000)
    threads = loop_of(Recalled, "_shortened")
    for shot in (2, 3):
        body = {"backbone": "glyphs", "learner": "protonet", "support": glyphs("abc", shot=shot)}
        assert client.post("/v1/tasks", json=body).status_code == 201
    body["inputs"] = glyphs("a", seed=1)["a"]
    assert client.post("/v1/classify", json=body).status_code == 200
    assert beside(threads) == [not small] * 2, "the second and the third request"


def test_a_learner_is_built_once_and_in_a_thread_when_its_first_task_is_asked_after_a_restart(
    small_client, vectors, loop_of, tmp_path
):
    settings = {"temperature": 3.0}  # other than the card's, whose learners are built at the start
    body = {"backbone": "vector-identity", "learner": "protonet", "learner_settings": settings, "support": vectors()}
    with TestClient(create_app(Settings(data_dir=tmp_path, device="cpu", backbones="vector-identity"))) as before:
        tasks = [before.post("/v1/tasks", json=body).json()["id"] for _ in range(4)]
    threads = loop_of(LearnerBuilder, "_build")
    after = small_client()
    threads.clear()
    items = [{"task": task, "vector": vectors()["a"][0]} for task in tasks[:3]]
    found = after.post("/v1/predict", json={"items": items}).json()["items"]
    assert [one["prediction"]["label"] for one in found] == ["a"] * 3
    assert beside(threads) == [True], "one build for all that ask for it at the same time"
    threads = loop_of(Catalogue, "bound")
    assert after.post(f"/v1/tasks/{tasks[3]}/predict", json={"inputs": vectors()["b"]}).status_code == 200
    assert threads == [], "it is made as the others are"
