"""Learners that adapt the backbone's weights, over HTTP: from the inputs themselves, kept, refitted, moved."""

import itertools
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import load, save
from starlette.testclient import TestClient

from app.config import Settings
from app.main import create_app
from tests.api.conftest import save_glyphs

pytestmark = pytest.mark.usefixtures("nudge")

SERVED = {"nudge": {}, "protonet": {}}


@pytest.fixture(scope="module")
def client(nudge, tmp_path_factory):
    """One server for all tests that need no settings of their own."""
    folder = tmp_path_factory.mktemp("weights")
    save_glyphs(folder / "models", SERVED)
    settings = Settings(data_dir=folder / "data", models=str(folder / "models"), backbones="glyphs", device="cpu")
    with TestClient(create_app(settings), raise_server_exceptions=False) as opened:
        yield opened


def made(client, support, **more):
    body = {"backbone": "glyphs", "learner": "nudge", "support": support, **more}
    response = client.post("/v1/tasks", json=body)
    assert response.status_code == 201, response.text
    return response.json()


def scores(client, task_id, queries):
    answer = client.post(f"/v1/tasks/{task_id}/predict", json={"inputs": queries, "top_k": 100})
    assert answer.status_code == 200, answer.text
    return [{one["label"]: one["score"] for one in each["scores"]} for each in answer.json()["predictions"]]


def code_of(response):
    return response.status_code, response.json()["code"]


def flat(support):
    return [one for given in support.values() for one in given]


def test_tasks_made_at_once_answer_as_those_made_alone(client, glyphs):
    supports = [glyphs("abc", 3, seed=seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda support: made(client, support), supports))
    queries = flat(glyphs("abc", 1, seed=9))
    for task, support in zip(together, supports, strict=True):
        alone = made(client, support)
        losses = [one["adaptation"]["support_losses"] for one in (task, alone)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
        for one, other in zip(*(scores(client, each["id"], queries) for each in (task, alone)), strict=True):
            assert one == pytest.approx(other, abs=1e-4)


def test_a_task_on_adapted_weights_answers_and_shows_how_the_loss_fell(client, glyphs):
    task = made(client, glyphs("abc", 3), learner_settings={"steps": 12, "rate": 0.02})
    losses = task["adaptation"]["support_losses"]
    assert len(losses) == 13
    assert losses[-1] < losses[0]
    assert task["held_out"]["examples"] == 9
    assert client.get(f"/v1/tasks/{task['id']}").json()["adaptation"] == task["adaptation"]
    (version,) = client.get(f"/v1/tasks/{task['id']}/versions").json()["versions"]
    assert version["adaptation"] == task["adaptation"]
    answers = scores(client, task["id"], flat(glyphs("abc", 3)))
    right = [max(one, key=one.get) for one in answers]
    assert right == [label for label in "abc" for _ in range(3)]


def test_other_learners_have_no_trace(client, glyphs):
    assert made(client, glyphs("ab"), learner="protonet")["adaptation"] is None


def test_auto_tries_learners_on_embeddings_alone(client, glyphs):
    task = made(client, glyphs("ab"), learner="auto")
    assert (task["learner"], task["adaptation"]) == ("protonet", None)


def test_auto_is_the_first_learner_where_all_adapt_weights(glyph_client, glyphs):
    client = glyph_client({"nudge": {"steps": 1}})
    task = made(client, glyphs("ab"), learner="auto")
    assert (task["learner"], task["learner_settings"]["steps"]) == ("nudge", 1)


def test_an_answer_is_the_same_alone_and_beside_others(client, glyphs):
    task = made(client, glyphs("abc"))
    queries = flat(glyphs("abc", 2, seed=5))
    together = scores(client, task["id"], queries)
    for one, expected in zip(queries, together, strict=True):
        assert scores(client, task["id"], [one])[0] == pytest.approx(expected, abs=1e-6)


def test_examples_added_in_any_order_give_what_a_fresh_fit_gives(client, glyphs):
    whole, queries = glyphs("abc", 2), flat(glyphs("abc", 1, seed=3))
    fresh = made(client, whole)
    expected = scores(client, fresh["id"], queries)
    for order in itertools.islice(itertools.permutations("abc"), 0, 6, 3):
        task = made(client, {label: given[:1] for label, given in whole.items()})
        for label in order:
            added = client.post(f"/v1/tasks/{task['id']}/examples", json={"support": {label: whole[label][1:]}})
            assert added.status_code == 200, added.text
        assert added.json()["version"] == 4
        assert added.json()["adaptation"] == fresh["adaptation"]
        assert scores(client, task["id"], queries) == expected


def test_a_label_removed_is_as_if_it_had_never_been_there(client, glyphs):
    queries = flat(glyphs("ab", 1, seed=3))
    expected = scores(client, made(client, glyphs("ab"))["id"], queries)
    task = made(client, glyphs("abc"))
    removed = client.delete(f"/v1/tasks/{task['id']}/labels/c")
    assert removed.status_code == 200, removed.text
    assert scores(client, task["id"], queries) == expected
    ids = [one["id"] for one in client.get(f"/v1/tasks/{task['id']}/examples?label=a").json()["examples"]]
    fewer = client.delete(f"/v1/tasks/{task['id']}/examples", params={"example_id": ids[:1]})
    assert fewer.json()["shots"] == {"a": 1, "b": 2}
    back = client.post(f"/v1/tasks/{task['id']}/versions/1/activate")
    assert back.json()["labels"] == ["a", "b", "c"]


def test_without_stored_inputs_a_task_answers_but_cannot_be_changed(client, glyphs):
    task = made(client, glyphs("abc"), store_inputs=False)
    assert "inputs-not-stored" in [one["code"] for one in task["warnings"]]
    assert len(scores(client, task["id"], glyphs("a")["a"])) == 2
    url = f"/v1/tasks/{task['id']}"
    for response in (
        client.post(f"{url}/examples", json={"support": glyphs("d")}),
        client.delete(f"{url}/labels/c"),
    ):
        assert code_of(response) == (409, "inputs-not-stored")
        assert "Create the task again" in response.json()["detail"]
    assert client.get(url).json()["version"] == 1
    kept = made(client, glyphs("abc"), store_inputs=True)
    assert "inputs-not-stored" not in [one["code"] for one in kept["warnings"]]


def test_classify_and_predict_many_work_on_adapted_weights(client, glyphs):
    support, queries = glyphs("abc"), flat(glyphs("abc", 1, seed=9))
    task = made(client, support)
    expected = scores(client, task["id"], queries)
    body = {"backbone": "glyphs", "learner": "nudge", "support": support, "inputs": queries}
    classified = client.post("/v1/classify", json=body).json()
    assert classified["adaptation"] == task["adaptation"]
    found = [{one["label"]: one["score"] for one in each["scores"]} for each in classified["predictions"]]
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, abs=1e-6)
    light = made(client, support, learner="protonet")
    items = [{"task": name, "image_b64": query} for query in queries for name in (task["id"], light["id"])]
    many = client.post("/v1/predict", json={"items": items}).json()["items"]
    assert [one["prediction"]["label"] for one in many[::2]] == [max(one, key=one.get) for one in expected]
    assert all("problem" not in one for one in many)


def test_an_export_is_byte_identical_after_a_round_trip_and_keeps_the_trace(client, glyphs):
    headers = {"content-type": "application/vnd.safetensors"}
    for store_inputs in (True, False):
        task = made(client, glyphs("abc"), store_inputs=store_inputs)
        data = client.get(f"/v1/tasks/{task['id']}/export").content
        moved = client.post("/v1/tasks/import", content=data, headers=headers)
        assert moved.status_code == 201, moved.text
        assert moved.json()["adaptation"] == task["adaptation"]
        assert client.get(f"/v1/tasks/{moved.json()['id']}/export").content == data
        query = glyphs("a", 1, seed=4)["a"]
        assert scores(client, moved.json()["id"], query) == scores(client, task["id"], query)
        added = client.post(f"/v1/tasks/{moved.json()['id']}/examples", json={"support": glyphs("d")})
        assert added.status_code == (200 if store_inputs else 409)


def test_an_imported_state_that_is_no_state_of_the_learner_is_refused(client, glyphs):
    task = made(client, glyphs("abc"))
    data = client.get(f"/v1/tasks/{task['id']}/export").content
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    metadata = header["__metadata__"]
    tensors = load(data)
    broken = [
        {"state.head.weight": torch.zeros(3, 9)},
        {"state.head.weight": torch.full((3, 8), torch.nan)},
        {"state.backbone.blocks.0.conv.weight": torch.zeros(8, 2, 3, 3)},
        {"state.backbone.nothing": torch.zeros(1)},
        {"state.support_losses": torch.tensor([1.0, torch.inf])},
        {"state.support_losses": torch.zeros(2, 2)},
    ]
    for change in broken:
        body = save({**tensors, **change}, metadata)
        response = client.post("/v1/tasks/import", content=body, headers={"content-type": "application/x-safetensors"})
        assert code_of(response) == (422, "bad-export"), list(change)


def test_a_diverged_adaptation_is_a_422_and_stores_nothing(glyph_client, glyphs):
    client = glyph_client({**SERVED, "maml": {}})
    body = {"backbone": "glyphs", "learner": "nudge", "support": glyphs("ab"), "learner_settings": {"rate": 1e29}}
    response = client.post("/v1/tasks", json=body)
    assert code_of(response) == (422, "adaptation-diverged")
    assert [one["pointer"] for one in response.json()["errors"]] == ["/learner_settings/rate"]
    body |= {"learner": "maml", "learner_settings": {"learning_rate": 1e3, "head_learning_rate": 1e3, "steps": 9}}
    response = client.post("/v1/tasks", json=body)
    assert code_of(response) == (422, "adaptation-diverged")
    assert [one["pointer"] for one in response.json()["errors"]] == ["/learner_settings/learning_rate"]
    assert client.get("/v1/tasks").json()["tasks"] == []


def test_a_set_too_large_to_adapt_is_a_413_that_names_the_limit(glyph_client, glyphs):
    client = glyph_client(SERVED, limits={"weight_examples": 5})
    body = {"backbone": "glyphs", "learner": "nudge", "support": glyphs("abc")}
    for response in (
        client.post("/v1/tasks", json=body),
        client.post("/v1/classify", json={**body, "inputs": glyphs("a")["a"]}),
    ):
        assert code_of(response) == (413, "too-many-to-adapt")
        assert "5 at most" in response.json()["detail"]
    task = made(client, glyphs("ab"))
    added = client.post(f"/v1/tasks/{task['id']}/examples", json={"support": glyphs("c")})
    assert code_of(added) == (413, "too-many-to-adapt")
    assert made(client, glyphs("abc"), learner="protonet")["examples"] == 6


def test_a_fixed_head_refuses_another_way_and_says_who_takes_it(glyph_client, glyphs):
    client = glyph_client({"nudge": {"head_way": 3}, "protonet": {}})
    body = {"backbone": "glyphs", "learner": "nudge", "support": glyphs("abcd")}
    for response in (
        client.post("/v1/tasks", json=body),
        client.post("/v1/classify", json={**body, "inputs": glyphs("a")["a"]}),
    ):
        assert code_of(response) == (422, "way-not-allowed")
        assert "serves 3 labels; 4 given" in response.json()["detail"]
        assert "protonet" in response.json()["detail"]
    task = made(client, glyphs("abc"))
    url = f"/v1/tasks/{task['id']}"
    added = client.post(f"{url}/examples", json={"support": glyphs("d")})
    assert code_of(added) == (422, "way-not-allowed")
    assert code_of(client.delete(f"{url}/labels/c")) == (422, "way-not-allowed")
    shown = client.get("/v1/backbones/glyphs").json()["serves"]
    assert shown["nudge"]["way"] == {"min": 3, "max": 3}
    assert shown["nudge"]["adapts_weights"] is True
    assert shown["protonet"]["way"] == {"min": 2, "max": 10_000}
    assert shown["protonet"]["adapts_weights"] is False


def test_a_state_larger_than_the_cache_is_served_and_one_over_a_megabyte_is_a_blob(glyph_client, glyphs, tmp_path):
    client = glyph_client(SERVED, filters=128, engine={"state_cache_bytes": 1000})
    task = made(client, glyphs("abc", 1), learner_settings={"rate": 0.0001})
    query = glyphs("a", 1, seed=4)["a"]
    before = scores(client, task["id"], query)
    assert scores(client, task["id"], query) == before
    assert 'imprint_state_cache_events_total{event="uncached"} 2.0' in client.get("/metrics").text
    (version,) = client.get(f"/v1/tasks/{task['id']}/versions").json()["versions"]
    blobs = [one for one in (tmp_path / "blobs").rglob("*") if one.is_file()]
    assert version["state_size_bytes"] > 2**20
    assert version["state_size_bytes"] in [one.stat().st_size for one in blobs]
    data = client.get(f"/v1/tasks/{task['id']}/export").content
    moved = client.post("/v1/tasks/import", content=data, headers={"content-type": "application/vnd.safetensors"})
    assert client.get(f"/v1/tasks/{moved.json()['id']}/export").content == data
    assert scores(client, moved.json()["id"], query) == before


def test_a_long_adaptation_is_no_hang_and_light_requests_are_answered_after_it(glyph_client, glyphs, watched):
    client = glyph_client(SERVED, engine={"hang_timeout_s": 1.5})
    watched.append(lambda: time.sleep(0.06))
    task = made(client, glyphs("ab", 1), learner_settings={"steps": 40})
    assert len(task["adaptation"]["support_losses"]) == 41
    assert "imprint_engine_restarts_total 0.0" in client.get("/metrics").text


def test_a_passed_deadline_stops_an_adaptation_between_its_steps(glyph_client, glyphs, watched):
    client = glyph_client(SERVED)
    steps = []
    watched.append(lambda: steps.append(time.sleep(0.001)))
    body = {"backbone": "glyphs", "learner": "nudge", "support": glyphs("ab"), "learner_settings": {"steps": 1_000_000}}
    response = client.post("/v1/tasks", json=body, headers={"x-deadline-ms": "300"})
    assert code_of(response) == (504, "deadline-passed")
    assert made(client, glyphs("ab"), learner="protonet")["version"] == 1  # the device is free again
    assert 0 < len(steps) < 1_000_000
    assert len(client.get("/v1/tasks").json()["tasks"]) == 1
    assert "imprint_engine_restarts_total 0.0" in client.get("/metrics").text


def test_a_hang_in_one_tasks_weights_leaves_the_answers_of_all_others_as_they_were(glyph_client, glyphs, watched):
    client = glyph_client(SERVED, engine={"hang_timeout_s": 1.0})
    light, heavy = made(client, glyphs("abc"), learner="protonet"), made(client, glyphs("abc"))
    queries = flat(glyphs("abc", 1, seed=7))
    before = [scores(client, one["id"], queries) for one in (light, heavy)]
    release, left, passes = threading.Event(), threading.Event(), itertools.count()

    def hang():
        if next(passes) == 2:  # by then its weights are others than those it began with
            release.wait(20)
            left.set()

    watched.append(hang)
    body = {"backbone": "glyphs", "learner": "nudge", "support": glyphs("de"), "learner_settings": {"rate": 0.7}}
    response = client.post("/v1/tasks", json=body)
    assert code_of(response) == (503, "engine-down")
    watched.clear()
    during = [scores(client, one["id"], queries) for one in (light, heavy)]
    release.set()
    assert left.wait(20)
    after = [scores(client, one["id"], queries) for one in (light, heavy)]
    assert before == during == after
    assert made(client, glyphs("abc"))["adaptation"] == heavy["adaptation"]
