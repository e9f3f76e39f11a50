"""Each bad input: the right code, a pointer to the field, and nothing stored."""

import io
import json
import struct
import zipfile
import zlib

import pytest
from PIL import Image

PHOTO = "photo-efficientnet-lite0"


@pytest.fixture(autouse=True)
def nothing_is_stored(client, request):
    if "task" in request.fixturenames:
        request.getfixturevalue("task")

    def stored():
        return [one["id"] for one in client.get("/v1/tasks", params={"limit": 200}).json()["tasks"]]

    before = stored()
    yield
    assert stored() == before


def refused(response, status, code, pointer=None):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert set(problem) == {"type", "title", "status", "detail", "instance", "code", "request_id", "errors"}
    assert problem["status"] == status
    assert problem["code"] == code
    assert problem["request_id"] == response.headers["x-request-id"]
    assert "Traceback" not in response.text
    assert "site-packages" not in response.text
    if pointer is not None:
        assert pointer in [one["pointer"] for one in problem["errors"]], problem
    return problem


def post(client, support, backbone="vector-identity", **more):
    return client.post("/v1/tasks", json={"backbone": backbone, "support": support, **more})


TWO = {"a": [[1.0, 2.0]], "b": [[2.0, 1.0]]}


def test_an_empty_body(client):
    for url in ("/v1/tasks", "/v1/classify", "/v1/predict", "/v1/tasks/import"):
        refused(client.post(url), 400, "empty-body")


def test_broken_json(client):
    for content in (b"{", b"\xff\xfe", b'{"backbone": "x",}', b"[1, 2"):
        refused(
            client.post("/v1/tasks", content=content, headers={"content-type": "application/json"}),
            400,
            "malformed-request",
        )


def test_json_of_another_shape(client):
    problem = refused(client.post("/v1/tasks", json=[1, 2]), 422, "invalid-request")
    assert problem["errors"]


def test_one_label_only(client):
    refused(post(client, {"a": [[1.0, 2.0], [2.0, 3.0]]}), 422, "too-few-labels", "/support")


def test_no_label_at_all(client):
    refused(post(client, {}), 422, "too-few-labels", "/support")
    refused(post(client, []), 422, "too-few-labels", "/support")


def test_an_empty_class(client):
    refused(post(client, {**TWO, "empty": []}), 422, "empty-class", "/support/empty")


def test_ten_thousand_and_one_labels(client):
    support = {f"label {index}": [[float(index)]] for index in range(10_001)}
    refused(post(client, support), 413, "too-many-labels", "/support")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e39"])
def test_a_number_that_is_not_finite(client, number):
    body = json.dumps({"backbone": "vector-identity", "support": {"a": [[1, 2]], "b": [[1, "N"]]}})
    body = body.replace('"N"', number)
    response = client.post("/v1/tasks", content=body, headers={"content-type": "application/json"})
    refused(response, 422, "not-finite", "/support/b/0/1")


def test_vectors_of_mixed_sizes(client):
    problem = refused(post(client, {"a": [[1.0, 2.0]], "b": [[1.0, 2.0, 3.0]]}), 422, "vector-size")
    assert problem["errors"][0]["pointer"].startswith("/support/")


def test_a_text_of_one_megabyte(client):
    support = {"a": ["x" * 1_000_000], "b": ["short"]}
    refused(post(client, support, "text-minilm"), 413, "text-too-long", "/support/a/0")


def test_an_image_that_says_it_has_65535_by_65535_pixels(client, b64, image):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 65_535, 65_535, 8, 2, 0, 0, 0)
    huge = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )
    support = {"a": [b64(image((9, 9, 9)))], "b": [b64(huge)]}
    refused(post(client, support, PHOTO), 413, "too-many-pixels", "/support/b/0")


def test_a_truncated_jpeg(client, b64, image):
    cut = image((200, 9, 9), format="JPEG", size=256)[:-4000]
    refused(
        post(client, {"a": [b64(cut)], "b": [b64(image((9, 9, 9)))]}, PHOTO), 422, "undecodable-image", "/support/a/0"
    )


def test_an_animated_gif(client, b64, image):
    frames = [Image.new("RGB", (8, 8), (90 * index, 0, 0)) for index in range(3)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    support = {"a": [b64(buffer.getvalue())], "b": [b64(image((9, 9, 9)))]}
    response = post(client, support, PHOTO)
    problem = refused(response, 415, "animated-image", "/support/a/0")
    assert "GIF" in problem["detail"]


def test_a_url_where_an_image_belongs(client, b64, image):
    support = [
        {"label": "a", "image_b64": "https://example.org/cat.jpg"},
        {"label": "b", "image_b64": b64(image((1, 1, 1)))},
    ]
    problem = refused(post(client, support, PHOTO), 422, "url-not-fetched", "/support/0/image_b64")
    assert "fetch" in problem["detail"]


def test_a_zip_bomb(client):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/zeros.png", b"\0" * 30_000_000)
        archive.writestr("b/zeros.png", b"\0" * 30_000_000)
    refused(post_zip(client, packed), 413, "archive-too-large")


@pytest.mark.parametrize("name", ["../a/evil.png", "/etc/a/evil.png", "a/../../evil.png", "C:\\a\\evil.png"])
def test_a_zip_with_unsafe_names(client, image, name):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a/1.png", image((1, 1, 1)))
        archive.writestr(name, image((1, 1, 1)))
    refused(post_zip(client, packed), 422, "unsafe-archive-path")


def test_a_zip_that_is_none(client):
    refused(post_zip(client, io.BytesIO(b"PK but no zip")), 400, "not-a-zip")


def post_zip(client, packed):
    headers = {"content-type": "application/zip"}
    return client.post("/v1/tasks", params={"backbone": PHOTO}, content=packed.getvalue(), headers=headers)


def test_a_body_over_the_limit(small_client):
    client = small_client(limits={"body_size_bytes": 10_000})
    support = {"a": [[0.5] * 2000], "b": [[0.25] * 2000]}
    refused(client.post("/v1/tasks", json={"backbone": "vector-identity", "support": support}), 413, "body-too-large")
    chunks = (b"x" * 1000 for _ in range(20))
    refused(
        client.post("/v1/tasks", content=chunks, headers={"content-type": "application/json"}), 413, "body-too-large"
    )
    assert client.get("/v1/tasks").json()["tasks"] == []


def test_unknown_fields(client):
    problem = refused(post(client, TWO, colour="red"), 422, "invalid-request", "/colour")
    assert problem["errors"][0]["detail"] == "There is no such field."
    support = [{"label": "a", "vector": [1.0], "weight": 2}, {"label": "b", "vector": [2.0]}]
    refused(post(client, support), 422, "invalid-request", "/support/0/weight")
    params = {"backbone": "vector-identity", "colour": "red"}
    response = client.post("/v1/tasks", params=params, files=[("a", (None, "[1]")), ("b", (None, "[2]"))])
    refused(response, 422, "invalid-request", "/query/colour")


def test_an_unknown_learner(client):
    problem = refused(post(client, TWO, learner="magic"), 422, "unknown-name", "/learner")
    assert "protonet" in problem["detail"]


def test_an_unknown_backbone(client):
    problem = refused(post(client, TWO, backbone="resnet-9000"), 422, "unknown-name", "/backbone")
    assert "vector-identity" in problem["detail"]


def test_an_unknown_or_impossible_setting(client):
    unknown = post(client, TWO, learner="ridge", learner_settings={"depth": 3})
    refused(unknown, 422, "invalid-setting", "/learner_settings/depth")
    text = post(client, TWO, learner="protonet", learner_settings={"temperature": "hot"})
    refused(text, 422, "invalid-setting", "/learner_settings/temperature")
    negative = post(client, TWO, learner="protonet", learner_settings={"temperature": -1})
    refused(negative, 422, "invalid-setting", "/learner_settings/temperature")
    auto = post(client, TWO, learner_settings={"temperature": 1})
    refused(auto, 422, "invalid-setting", "/learner_settings")


def test_a_label_of_ten_thousand_characters(client):
    refused(post(client, {**TWO, "x" * 10_000: [[1.0, 1.0]]}), 422, "label-too-long")


@pytest.mark.parametrize("label", ["", "  ", "a\u0000b", "line\nbreak"])
def test_labels_that_cannot_be_shown(client, label):
    response = post(client, {**TWO, label: [[1.0, 1.0]]})
    refused(response, 422, "invalid-label")


def test_an_input_of_another_kind_than_the_backbone_reads(client):
    response = post(client, {"a": ["text"], "b": [[1.0]]})
    refused(response, 422, "wrong-input-kind", "/support/a/0")
    response = post(client, [{"label": "a", "text": "x"}, {"label": "b", "text": "y"}], PHOTO)
    refused(response, 422, "wrong-input-kind", "/support/0/text")


def test_an_input_that_gives_two_things_or_none(client):
    two = [{"label": "a", "vector": [1.0], "text": "x"}, {"label": "b", "vector": [1.0]}]
    refused(post(client, two), 422, "invalid-request", "/support/0")
    none = [{"label": "a"}, {"label": "b", "vector": [1.0]}]
    refused(post(client, none), 422, "invalid-request", "/support/0")


def test_a_content_type_that_is_not_read(client):
    response = client.post(
        "/v1/tasks", params={"backbone": PHOTO}, content=b"<x/>", headers={"content-type": "application/xml"}
    )
    refused(response, 415, "unsupported-content-type")
    refused(
        client.post("/v1/predict", content=b"<x/>", headers={"content-type": "text/xml"}),
        415,
        "unsupported-content-type",
    )


def test_a_compressed_body(client):
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    refused(client.post("/v1/tasks", content=b"\x1f\x8b", headers=headers), 415, "unsupported-content-type")


def test_a_multipart_body_without_a_boundary(client):
    headers = {"content-type": "multipart/form-data"}
    refused(client.post("/v1/tasks", params={"backbone": PHOTO}, content=b"x", headers=headers), 400, "bad-multipart")


def test_a_multipart_body_without_a_part_holds_no_input(client, task):
    headers = {"content-type": "multipart/form-data; boundary=B"}
    refused(client.post(f"/v1/tasks/{task['id']}/predict", content=b"--B--\r\n", headers=headers), 400, "empty-body")


def test_a_multipart_body_without_a_backbone(client):
    response = client.post("/v1/tasks", files=[("a", (None, "[1]"))])
    refused(response, 422, "invalid-request", "/query/backbone")


def test_bad_queries(client, task):
    url = f"/v1/tasks/{task['id']}/predict"
    refused(client.get(url), 422, "invalid-request", "/query")
    refused(client.get(url, params={"vector": "1", "text": "x"}), 422, "invalid-request", "/query")
    refused(client.get(url, params={"vector": "1,x"}), 422, "not-a-number", "/query/vector/1")
    refused(client.get(url, params={"vector": "1,2", "colour": "red"}), 422, "invalid-request", "/query/colour")
    refused(client.post(url, json={"inputs": []}), 422, "invalid-request", "/inputs")
    refused(client.post(url, json={"inputs": [[0.5] * 8], "top_k": 0}), 422, "invalid-request", "/top_k")
    wrong = client.post(url, json={"inputs": [[0.5] * 8, [0.5] * 7]})
    refused(wrong, 422, "vector-size", "/inputs/1")
    refused(client.get("/v1/tasks", params={"limit": 201}), 422, "invalid-request", "/query/limit")
    refused(client.get("/v1/tasks", params={"cursor": "nonsense"}), 422, "bad-cursor")


def test_more_inputs_than_one_request_may_hold(client, task):
    response = client.post(f"/v1/tasks/{task['id']}/predict", json={"inputs": [[0.0] * 8] * 1001})
    refused(response, 413, "too-large", "/inputs")


def test_safetensors_that_are_none(client, task):
    url = f"/v1/tasks/{task['id']}/predict"
    headers = {"content-type": "application/vnd.safetensors"}
    response = client.post(url, content=b"\xff" * 100, headers=headers)
    refused(response, 400, "not-safetensors")


def test_every_faulty_field_is_named(client):
    support = {"a": [[1.0], ["x"]], "b": [{"vector": [1.0], "text": "y"}]}
    body = json.dumps({"backbone": "vector-identity", "support": support, "x": 1})
    problem = client.post("/v1/tasks", content=body).json()
    pointers = {one["pointer"] for one in problem["errors"]}
    assert {"/support/a/1/0", "/support/b/0", "/x"} <= pointers


def test_the_frameworks_own_errors_are_problems_too(client):
    refused(client.get("/nowhere"), 404, "not-found")
    refused(client.put("/v1/tasks"), 405, "method-not-allowed")
    assert "allow" in client.put("/v1/tasks").headers


def test_a_failure_of_ours_is_a_500_that_tells_nothing(small_client, monkeypatch):
    client = small_client()

    async def broken(*args, **kwargs):
        raise RuntimeError("SELECT secret FROM /var/lib/path")

    monkeypatch.setattr(client.app.state.services.tasks, "get", broken, raising=False)
    problem = refused(client.get("/v1/tasks/tsk_x"), 500, "internal-error")
    assert "secret" not in json.dumps(problem)
