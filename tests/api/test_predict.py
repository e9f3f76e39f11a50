"""Predicting over HTTP: all bodies, many tasks, nothing stored, and what is recorded."""

import numpy as np
import pytest
import torch
from safetensors.torch import save


def test_an_answer_lists_labels_best_first_with_confidences_that_sum_to_one(client, task, vectors):
    response = client.post(f"/v1/tasks/{task['id']}/predict", json={"inputs": vectors("b")["b"], "top_k": 3})
    assert response.status_code == 200
    answer = response.json()
    assert (answer["task"], answer["task_version"]) == (task["id"], 1)
    for index, one in enumerate(answer["predictions"]):
        assert one["index"] == index
        assert one["label"] == one["scores"][0]["label"] == "b"
        assert one["confidence"] == one["scores"][0]["score"]
        values = [each["score"] for each in one["scores"]]
        assert values == sorted(values, reverse=True)
        assert sum(values) == pytest.approx(1, abs=1e-5)
    timing = response.headers["server-timing"]
    assert [part.partition(";")[0] for part in timing.split(", ")] == ["queue", "decode", "device", "load"]
    assert response.headers["x-request-id"]


def test_all_body_forms_give_the_same_answer(client, task, vectors):
    url = f"/v1/tasks/{task['id']}/predict"
    vector = vectors(seed=2)["c"][0]
    as_json = client.post(url, json={"inputs": [{"vector": vector}]}).json()["predictions"]
    matrix = save({"inputs": torch.tensor([vector])})
    as_matrix = client.post(url, content=matrix, headers={"content-type": "application/vnd.safetensors"})
    as_part = client.post(url, files=[("x", (None, str(vector)))])
    as_query = client.get(url, params={"vector": ",".join(map(str, vector))})
    for response in (as_matrix, as_part, as_query):
        assert response.status_code == 200, response.text
        assert response.json()["predictions"] == as_json


def test_an_answer_does_not_depend_on_its_batch_mates(client, vectors):
    made = client.post("/v1/tasks", json={"backbone": "vector-identity", "support": vectors("abcde")}).json()
    url = f"/v1/tasks/{made['id']}/predict"
    queries = [one for given in vectors("abcde", seed=6).values() for one in given]
    together = client.post(url, json={"inputs": queries, "top_k": 5}).json()["predictions"]
    for index in (0, 7, 24):
        (alone,) = client.post(url, json={"inputs": [queries[index]], "top_k": 5}).json()["predictions"]
        for one, other in zip(alone["scores"], together[index]["scores"], strict=True):
            assert one["label"] == other["label"]
            assert one["score"] == pytest.approx(other["score"], abs=1e-6)


def test_a_get_is_cacheable_until_the_version_changes(client, task, vectors):
    url = f"/v1/tasks/{task['id']}/predict"
    params = {"vector": ",".join(map(str, vectors()["a"][0]))}
    first = client.get(url, params=params)
    etag = first.headers["etag"]
    again = client.get(url, params=params, headers={"if-none-match": etag})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get(url, params={"vector": params["vector"], "top_k": 1}).headers["etag"] != etag
    client.post(f"/v1/tasks/{task['id']}/examples", json={"support": vectors("d")})
    assert client.get(url, params=params, headers={"if-none-match": etag}).status_code == 200


def test_recorded_predictions_can_be_read_back(client, task, vectors):
    url = f"/v1/tasks/{task['id']}"
    inputs = [one for given in vectors("abc").values() for one in given[:1]]
    made = client.post(f"{url}/predict", json={"inputs": inputs, "record": True}).json()["predictions"]
    client.post(f"{url}/predict", json={"inputs": inputs})
    ids = [one["prediction_id"] for one in made]
    for one in made:
        record = client.get(f"/v1/predictions/{one['prediction_id']}").json()
        assert record["prediction"] == one
        assert (record["task"], record["task_version"], record["stored"]) == (task["id"], 1, True)
    first = client.get(f"{url}/predictions", params={"limit": 2}).json()
    second = client.get(f"{url}/predictions", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [one["id"] for one in first["predictions"] + second["predictions"]] == ids[::-1]
    missing = client.get("/v1/predictions/prd_none")
    assert (missing.status_code, missing.json()["code"]) == (404, "prediction-not-found")


def test_one_request_asks_many_tasks_and_each_item_has_its_answer_or_its_problem(client, task, vectors):
    text = {"a": ["good morning", "hello there"], "b": ["where is my invoice", "send the bill"]}
    other = client.post("/v1/tasks", json={"backbone": "text-minilm", "support": text}).json()
    items = [
        {"task": task["id"], "vector": vectors()["c"][0]},
        {"task": "tsk_unknown", "vector": [1.0]},
        {"task": other["id"], "text": "the invoice is missing", "top_k": 1},
        {"task": task["id"], "text": "not a vector"},
    ]
    response = client.post("/v1/predict", json={"items": items})
    assert response.status_code == 200, response.text
    answered = response.json()["items"]
    assert [one["index"] for one in answered] == [0, 1, 2, 3]
    assert answered[0]["prediction"]["label"] == "c"
    assert answered[1]["problem"]["code"] == "task-not-found"
    assert answered[2]["prediction"]["label"] == "b"
    assert len(answered[2]["prediction"]["scores"]) == 1
    assert answered[3]["problem"]["status"] == 422
    assert answered[3]["problem"]["errors"][0]["pointer"] == "/items/3/text"


def test_classify_answers_as_a_stored_task_would_and_stores_nothing(client, vectors):
    support, inputs = vectors(), vectors("abc", seed=11)["b"]
    body = {"backbone": "vector-identity", "learner": "ridge", "support": support}
    before = client.get("/v1/tasks").json()["tasks"]
    answer = client.post("/v1/classify", json={**body, "inputs": inputs, "top_k": 3})
    assert answer.status_code == 200, answer.text
    assert client.get("/v1/tasks").json()["tasks"] == before
    stored = client.post("/v1/tasks", json=body).json()
    expected = client.post(f"/v1/tasks/{stored['id']}/predict", json={"inputs": inputs, "top_k": 3}).json()
    for one, other in zip(answer.json()["predictions"], expected["predictions"], strict=True):
        assert one["label"] == other["label"]
        assert one["confidence"] == pytest.approx(other["confidence"], abs=1e-6)
    assert answer.json()["held_out"]["accuracy"] == stored["held_out"]["accuracy"]


def test_glyphs_are_read_whichever_way_the_ink_is(client, b64):
    def stroke(vertical, shift, dark_on_light):
        pixels = np.zeros((28, 28), np.uint8)
        if vertical:
            pixels[4:24, 12 + shift : 15 + shift] = 255
        else:
            pixels[12 + shift : 15 + shift, 4:24] = 255
        return b64(_png(255 - pixels if dark_on_light else pixels))

    support = {"|": [stroke(True, shift, True) for shift in (-3, 0, 3)]}
    support["-"] = [stroke(False, shift, False) for shift in (-3, 0, 3)]
    made = client.post("/v1/tasks", json={"backbone": "glyph-conv4-protonet", "support": support})
    assert made.status_code == 201, made.text
    queries = [stroke(True, 1, False), stroke(False, -1, True)]
    answer = client.post(f"/v1/tasks/{made.json()['id']}/predict", json={"inputs": queries}).json()
    assert [one["label"] for one in answer["predictions"]] == ["|", "-"]


def _png(pixels):
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("value", ["0", "-5", "soon", "1e3", "9" * 40, "000000000001" + "9" * 400, "9" * 5000])
def test_a_deadline_that_is_no_number_is_400(client, task, value):
    response = client.get(f"/v1/tasks/{task['id']}/predict", params={"vector": "1"}, headers={"x-deadline-ms": value})
    assert (response.status_code, response.json()["code"]) == (400, "bad-header")
