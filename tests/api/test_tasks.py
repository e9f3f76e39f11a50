"""Creating, reading, renaming and deleting tasks over HTTP."""

import io
import json
import zipfile


def body(vectors, **more):
    return {"backbone": "vector-identity", "learner": "protonet", "support": vectors(), **more}


def test_creating_a_task_answers_201_with_location_etag_and_the_whole_task(client, vectors):
    response = client.post("/v1/tasks", json=body(vectors, name="parts of pumps"))
    task = response.json()
    assert response.status_code == 201
    assert response.headers["location"] == f"/v1/tasks/{task['id']}"
    assert response.headers["etag"] == '"1.1"' or response.headers["etag"].startswith('"1.')
    assert task["labels"] == ["a", "b", "c"]
    assert task["shots"] == {"a": 5, "b": 5, "c": 5}
    assert task["learner"] == task["learner_requested"] == "protonet"
    assert task["held_out"]["method"] == "leave-one-out-per-label"
    assert 0 <= task["held_out"]["accuracy"] <= 1
    assert task["timing"]["device_ms"] >= 0
    assert task["version"] == 1
    shown = client.get(response.headers["location"])
    assert shown.json() == task
    assert shown.headers["etag"] == response.headers["etag"]


def test_auto_chooses_among_the_learners_of_the_backbone_and_says_why(client, vectors):
    task = client.post("/v1/tasks", json=body(vectors, learner="auto")).json()
    served = client.get("/v1/backbones/vector-identity").json()["learners"]
    assert set(task["selection"]["scores"]) == set(served)
    assert task["selection"]["chosen"] == task["learner"]
    assert task["selection"]["reason"]
    assert {"method", "accuracy", "log_loss"} <= set(task["selection"]["scores"][task["learner"]])
    again = client.post("/v1/tasks", json=body(vectors, learner="auto")).json()
    assert again["selection"] == task["selection"]


def test_the_list_form_and_the_map_form_make_the_same_classifier(client, vectors):
    as_map = client.post("/v1/tasks", json=body(vectors)).json()
    as_list = [{"label": label, "vector": one} for label, given in reversed(vectors().items()) for one in given]
    listed = client.post("/v1/tasks", json=body(vectors, support=as_list)).json()
    query = {"inputs": [vectors(seed=9)["b"][0]]}
    answers = [client.post(f"/v1/tasks/{one['id']}/predict", json=query).json() for one in (as_map, listed)]
    assert answers[0]["predictions"] == answers[1]["predictions"]


def test_a_multipart_body_takes_one_part_per_example_with_the_label_as_field_name(client, image):
    red, blue = (200, 20, 20), (20, 20, 200)
    files = [("red", ("x.png", image(red, seed), "image/png")) for seed in range(3)]
    files += [("blue", ("y.webp", image(blue, seed, "WEBP"), "image/webp")) for seed in range(3)]
    response = client.post("/v1/tasks", params={"backbone": "photo-efficientnet-lite0"}, files=files)
    assert response.status_code == 201, response.text
    task = response.json()
    assert task["shots"] == {"blue": 3, "red": 3}
    url = f"/v1/tasks/{task['id']}/predict"
    answer = client.post(url, content=image(red, 77, "JPEG"), headers={"content-type": "image/jpeg"})
    assert answer.json()["predictions"][0]["label"] == "red"
    parts = [("q", ("1.png", image(blue, 78), "image/png")), ("q", ("2.png", image(red, 79), "image/png"))]
    many = client.post(url, files=parts, params={"top_k": 1}).json()
    assert [one["label"] for one in many["predictions"]] == ["blue", "red"]


def test_multipart_text_fields_are_texts(client):
    fields = [("late", (None, "where is my parcel")), ("late", (None, "it has not arrived"))]
    fields += [("money", (None, "give me a refund")), ("money", (None, "you charged me twice"))]
    response = client.post("/v1/tasks", params={"backbone": "text-minilm"}, files=fields)
    assert response.status_code == 201, response.text
    url = f"/v1/tasks/{response.json()['id']}/predict"
    answer = client.post(url, content="my package is late", headers={"content-type": "text/plain; charset=utf-8"})
    assert answer.json()["predictions"][0]["label"] == "late"


def test_a_zip_of_folders_is_a_support_set(client, image):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for seed in range(2):
            archive.writestr(f"été/{seed}.png", image((250, 250, 0), seed))
            archive.writestr(f"hiver/{seed}.png", image((0, 0, 250), seed))
    response = client.post(
        "/v1/tasks",
        params={"backbone": "photo-efficientnet-lite0", "learner": "ridge", "name": "seasons"},
        content=packed.getvalue(),
        headers={"content-type": "application/zip"},
    )
    assert response.status_code == 201, response.text
    assert response.json()["labels"] == ["hiver", "été"]
    assert response.json()["name"] == "seasons"


def test_learner_settings_in_the_query_are_a_json_object(client):
    fields = [("a", (None, "[1, 2]")), ("b", (None, "[3, 1]"))]
    params = {"backbone": "vector-identity", "learner": "ridge"}
    schema = next(one for one in client.get("/v1/learners").json()["learners"] if one["name"] == "ridge")["settings"]
    field, about = next((name, one) for name, one in schema["properties"].items() if one["type"] == "number")
    wanted = about["default"] * 2
    response = client.post(
        "/v1/tasks", params={**params, "learner_settings": json.dumps({field: wanted})}, files=fields
    )
    assert response.status_code == 201, response.text
    assert response.json()["learner_settings"][field] == wanted
    assert response.json()["learner_settings_requested"] == {field: wanted}


def test_one_shot_per_label_is_allowed_and_warned_of(client, vectors):
    response = client.post("/v1/tasks", json=body(vectors, support=vectors(shot=1), learner="auto"))
    assert response.status_code == 201
    task = response.json()
    assert "one-shot" in [one["code"] for one in task["warnings"]]
    assert task["held_out"] is None
    assert task["selection"]["scores"] == {}
    assert task["selection"]["reason"]


def test_doubled_examples_count_once_and_are_warned_of(client, vectors):
    support = vectors()
    doubled = {label: given + given[:1] for label, given in support.items()}
    task = client.post("/v1/tasks", json=body(vectors, support=doubled)).json()
    assert task["examples"] == 15
    assert "duplicates" in [one["code"] for one in task["warnings"]]


def test_long_texts_are_cut_and_the_answer_says_so(client):
    long = "word " * 600
    support = {"a": [long, "short"], "b": ["other", "another"]}
    task = client.post("/v1/tasks", json={"backbone": "text-minilm", "support": support}).json()
    assert "truncated" in [one["code"] for one in task["warnings"]]
    answer = client.post(f"/v1/tasks/{task['id']}/predict", json={"inputs": ["short", long]}).json()
    assert answer["truncated"] == [1]


def test_listing_pages_by_keyset_and_filters_by_label_and_name(client, vectors):
    made = [client.post("/v1/tasks", json=body(vectors, support=vectors("pqz"))).json()["id"] for _ in range(3)]
    named = client.post("/v1/tasks", json=body(vectors, name="a name to find")).json()["id"]
    first = client.get("/v1/tasks", params={"label": "z", "limit": 2}).json()
    second = client.get("/v1/tasks", params={"label": "z", "limit": 2, "cursor": first["next_cursor"]}).json()
    assert [one["id"] for one in first["tasks"] + second["tasks"]] == made[::-1]
    assert second["next_cursor"] is None
    assert [one["id"] for one in client.get("/v1/tasks", params={"name": "a name to find"}).json()["tasks"]] == [named]


def test_renaming_needs_a_matching_etag_when_one_is_sent(client, task):
    url = f"/v1/tasks/{task['id']}"
    etag = client.get(url).headers["etag"]
    renamed = client.patch(url, json={"name": "new name"}, headers={"if-match": etag})
    assert renamed.json()["name"] == "new name"
    stale = client.patch(url, json={"name": "third"}, headers={"if-match": etag})
    assert stale.status_code == 412
    assert stale.json()["code"] == "precondition-failed"
    assert client.get(url).json()["name"] == "new name"
    assert client.patch(url, json={"name": None}).json()["name"] is None


def test_a_name_belongs_to_one_task(client, vectors):
    assert client.post("/v1/tasks", json=body(vectors, name="taken")).status_code == 201
    second = client.post("/v1/tasks", json=body(vectors, name="taken"))
    assert second.status_code == 409
    assert second.json()["code"] == "name-taken"


def test_a_deleted_task_is_gone(client, task):
    url = f"/v1/tasks/{task['id']}"
    assert client.delete(url).status_code == 204
    for response in (client.get(url), client.delete(url), client.post(f"{url}/predict", json={"inputs": [[0.0] * 8]})):
        assert response.status_code == 410
        assert response.json()["code"] == "task-deleted"
    assert task["id"] not in [one["id"] for one in client.get("/v1/tasks").json()["tasks"]]


def test_an_unknown_task_is_404(client):
    response = client.get("/v1/tasks/tsk_nothing")
    assert response.status_code == 404
    assert response.json()["code"] == "task-not-found"


def test_right_to_left_and_emoji_labels_work(client, vectors):
    support = dict(zip(["حذاء", "👩‍🔬 lab", "עברית"], vectors().values(), strict=True))
    task = client.post("/v1/tasks", json=body(vectors, support=support)).json()
    assert sorted(task["labels"]) == sorted(support)
    answer = client.post(f"/v1/tasks/{task['id']}/predict", json={"inputs": [vectors()["a"][0]]}).json()
    assert answer["predictions"][0]["label"] == "حذاء"
    removed = client.delete(f"/v1/tasks/{task['id']}/labels/👩‍🔬 lab")
    assert removed.status_code == 200
    assert "👩‍🔬 lab" not in removed.json()["labels"]


def test_the_same_idempotency_key_makes_one_task(client, vectors):
    headers = {"idempotency-key": "order-66"}
    first = client.post("/v1/tasks", json=body(vectors), headers=headers)
    again = client.post("/v1/tasks", json=body(vectors), headers=headers)
    assert again.status_code == 201
    assert again.json() == first.json()
    assert again.headers["location"] == first.headers["location"]
    assert again.headers["idempotent-replayed"] == "true"
    other = client.post("/v1/tasks", json=body(vectors, support=vectors(seed=5)), headers=headers)
    assert other.status_code == 422
    assert other.json()["code"] == "idempotency-key-reused"


def test_a_failed_request_frees_its_idempotency_key(client, vectors):
    headers = {"idempotency-key": "second-try"}
    assert client.post("/v1/tasks", json=body(vectors, learner="nonsense"), headers=headers).status_code == 422
    assert client.post("/v1/tasks", json=body(vectors), headers=headers).status_code == 201
