"""Export and import."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load, save

from app.services.trial import Trial

HEADERS = {"content-type": "application/vnd.safetensors"}


def exported(client, task):
    response = client.get(f"/v1/tasks/{task['id']}/export")
    assert response.status_code == 200
    return response.content


def test_a_round_trip_is_byte_identical_and_answers_the_same(client, task, vectors):
    data = exported(client, task)
    response = client.post("/v1/tasks/import", content=data, headers=HEADERS, params={"name": "moved"})
    assert response.status_code == 201, response.text
    moved = response.json()
    assert (moved["name"], moved["change"], moved["version"]) == ("moved", "imported", 1)
    assert exported(client, moved) == data
    query = {"inputs": vectors("abc", seed=5)["a"]}
    answers = [client.post(f"/v1/tasks/{one['id']}/predict", json=query).json() for one in (task, moved)]
    assert answers[0]["predictions"] == answers[1]["predictions"]


@pytest.mark.parametrize("learner", ["ridge", "logistic", "matching", "auto"])
def test_every_learners_state_survives_the_round_trip_and_can_be_updated(client, vectors, learner):
    body = {"backbone": "vector-identity", "learner": learner, "support": vectors()}
    made = client.post("/v1/tasks", json=body).json()
    data = exported(client, made)
    moved = client.post("/v1/tasks/import", content=data, headers=HEADERS).json()
    assert exported(client, moved) == data
    updated = client.post(f"/v1/tasks/{moved['id']}/examples", json={"support": vectors("d")})
    assert updated.json()["labels"] == ["a", "b", "c", "d"]


def test_inputs_travel_along_only_when_they_were_stored(client, vectors):
    body = {"backbone": "vector-identity", "support": vectors("ab", shot=2)}
    kept = load(exported(client, client.post("/v1/tasks", json=body).json()))
    dropped = load(exported(client, client.post("/v1/tasks", json={**body, "store_inputs": False}).json()))
    assert sum(name.startswith("input.") for name in kept) == 4
    assert not any(name.startswith("input.") for name in dropped)


def test_an_export_of_another_backbone_is_a_409_that_says_what_to_do(client, task, tmp_path):
    data = _changed(exported(client, task), tmp_path, backbone_sha256="0" * 64)
    response = client.post("/v1/tasks/import", content=data, headers=HEADERS)
    assert (response.status_code, response.json()["code"]) == (409, "backbone-mismatch")
    assert "create the task again" in response.json()["detail"]


@pytest.mark.parametrize(
    "change",
    [
        {"examples": []},
        {"learner_requested": "magic"},
        {"extra": 1},
        {"format": 2},
    ],
)
def test_an_export_that_was_tampered_with_is_refused(client, task, tmp_path, change):
    before = client.get("/v1/tasks").json()
    response = client.post(
        "/v1/tasks/import", content=_changed(exported(client, task), tmp_path, **change), headers=HEADERS
    )
    assert response.status_code == 422, response.text
    assert client.get("/v1/tasks").json() == before


@pytest.mark.parametrize("tensor", ["state", "features", "input"])
def test_tensors_that_do_not_fit_are_refused(client, task, tmp_path, tensor):
    data = exported(client, task)
    tensors, document = _opened(data, tmp_path)
    name = next(one for one in tensors if one.startswith(tensor))
    tensors[name] = torch.zeros(3, dtype=tensors[name].dtype)
    response = client.post(
        "/v1/tasks/import", content=save(tensors, {"imprint": json.dumps(document)}), headers=HEADERS
    )
    assert (response.status_code, response.json()["code"]) == (422, "bad-export")


def test_files_that_are_no_exports_are_refused(client):
    plain = save({"x": torch.zeros(2)})
    response = client.post("/v1/tasks/import", content=plain, headers=HEADERS)
    assert (response.status_code, response.json()["code"]) == (422, "not-an-export")
    response = client.post("/v1/tasks/import", content=b"rubbish", headers=HEADERS)
    assert response.status_code == 400


def _opened(data, tmp_path):
    path = tmp_path / "export.safetensors"
    path.write_bytes(data)
    with safe_open(path, "pt") as opened:
        return load(data), json.loads(opened.metadata()["imprint"])


def _changed(data, tmp_path, **changes):
    tensors, document = _opened(data, tmp_path)
    return save(tensors, {"imprint": json.dumps({**document, **changes})})


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda one: one["examples"][0].update(size_bytes=2**63), "not-an-export"),
        (lambda one: one["examples"][0].update(media_type="a/b\nc"), "not-an-export"),
        (lambda one: one["version"].update(held_out={"accuracy": float("nan")}), "not-an-export"),
        (lambda one: one["version"].update(labels=["x" * 900, "y"]), "label-too-long"),
        (lambda one: one["examples"].append(one["examples"][0]), "bad-export"),
    ],
)
def test_what_no_request_could_make_cannot_be_imported(client, task, tmp_path, change, code):
    tensors, document = _opened(exported(client, task), tmp_path)
    change(document)
    response = client.post(
        "/v1/tasks/import", content=save(tensors, {"imprint": json.dumps(document)}), headers=HEADERS
    )
    assert (response.status_code, response.json()["code"]) == (422, code), response.text


@pytest.mark.parametrize("backbone", ["text-minilm", "photo-efficientnet-lite0", "glyph-conv4-protonet"])
def test_tasks_of_every_backbone_move(client, image, b64, backbone):
    colours = {"a": (200, 0, 0), "b": (0, 0, 200)}
    if backbone == "text-minilm":
        support = {"a": ["where is my parcel", "it is late"], "b": ["a refund please", "my money"]}
    else:
        support = {label: [b64(image(colour, seed)) for seed in range(2)] for label, colour in colours.items()}
    made = client.post("/v1/tasks", json={"backbone": backbone, "support": support}).json()
    data = exported(client, made)
    moved = client.post("/v1/tasks/import", content=data, headers=HEADERS)
    assert moved.status_code == 201, moved.text
    assert exported(client, moved.json()) == data


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("labels", lambda one: one + 1, "labels must be whole numbers from 0 to 2"),
        ("labels", lambda one: one - 1, "labels must be whole numbers from 0 to 2"),
        ("labels", lambda one: one + 2**40, "labels must be whole numbers from 0 to 2"),
        ("labels", lambda one: one.float(), "labels must be whole numbers from 0 to 2"),
        ("labels", lambda one: one.to(torch.uint16), "labels must be whole numbers from 0 to 2"),
        ("labels", lambda one: one[None], "labels must be whole numbers from 0 to 2"),
        ("shots", lambda one: one[:2], "shots must have a row for each of the 3 labels"),
        ("shots", lambda one: one[:, None], "shots must have a row for each of the 3 labels"),
    ],
)
def test_labels_that_point_outside_of_what_they_are_places_in_are_refused_before_anything_is_computed(
    client, vectors, tmp_path, monkeypatch, name, change, said
):
    body = {"backbone": "vector-identity", "learner": "matching", "support": vectors("abc")}
    tensors, document = _opened(exported(client, client.post("/v1/tasks", json=body).json()), tmp_path)
    tensors[f"state.{name}"] = change(tensors[f"state.{name}"]).contiguous()
    content = save(tensors, {"imprint": json.dumps(document)})
    monkeypatch.setattr(Trial, "__call__", lambda *_: pytest.fail("it was tried"))
    response = client.post("/v1/tasks/import", content=content, headers=HEADERS)
    assert (response.status_code, response.json()["code"]) == (422, "bad-export")
    assert said in response.json()["detail"]


def test_embeddings_of_another_size_than_the_backbones_are_refused(client, task, tmp_path):
    tensors, document = _opened(exported(client, task), tmp_path)
    sha256 = client.get("/v1/backbones/text-minilm").json()["sha256"]
    document.update(backbone="text-minilm", backbone_sha256=sha256)
    response = client.post(
        "/v1/tasks/import", content=save(tensors, {"imprint": json.dumps(document)}), headers=HEADERS
    )
    assert (response.status_code, response.json()["code"]) == (422, "bad-export")


@pytest.mark.parametrize("document", ["not json", "[" * 100_000, '{"format": ' + "9" * 5_000 + "}", "[]", "null"])
def test_metadata_that_is_no_document_is_refused(client, task, tmp_path, document):
    tensors, _ = _opened(exported(client, task), tmp_path)
    response = client.post("/v1/tasks/import", content=save(tensors, {"imprint": document}), headers=HEADERS)
    assert (response.status_code, response.json()["code"]) == (422, "not-an-export")
