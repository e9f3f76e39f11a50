"""Methods, headers and queries: what HTTP itself lets a client say."""

import json
import logging

import pytest


def test_head_is_a_get_without_a_body(client, task):
    for path in ("/livez", "/v1/limits", f"/v1/tasks/{task['id']}"):
        head, get = client.head(path), client.get(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == get.headers["content-length"]


def test_a_405_names_every_method_of_the_path(client):
    assert client.put("/v1/tasks").headers["allow"] == "GET, HEAD, POST"
    assert client.put("/v1/tasks/tsk_x/predict").headers["allow"] == "GET, HEAD, POST"
    assert client.post("/livez").headers["allow"] == "GET, HEAD"


def test_if_match_may_be_a_list(client, task):
    url = f"/v1/tasks/{task['id']}"
    etag = client.get(url).headers["etag"]
    assert client.patch(url, json={"name": None}, headers={"if-match": f'"other", {etag}'}).status_code == 200
    etag = client.get(url).headers["etag"]
    assert client.patch(url, json={"name": None}, headers={"if-match": f"W/{etag}"}).status_code == 412
    assert client.patch(url, json={"name": None}, headers={"if-match": "*"}).status_code == 200


def test_if_none_match_may_be_a_list_and_is_compared_weakly(client, task):
    url = f"/v1/tasks/{task['id']}"
    etag = client.get(url).headers["etag"]
    for offered in (etag, f'"x", {etag}', f"W/{etag}", "*"):
        assert client.get(url, headers={"if-none-match": offered}).status_code == 304
    assert client.get(url, headers={"if-none-match": '"x"'}).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/tasks?foo=1"),
        ("GET", "/v1/limits?foo=1"),
        ("GET", "/v1/tasks/{id}/versions?foo=1"),
        ("POST", "/v1/tasks/{id}/predict?foo=1"),
        ("POST", "/v1/tasks/import?foo=1"),
        ("GET", "/v1/tasks/{id}/predict?vector=1&foo=1"),
    ],
)
def test_unknown_parameters_are_refused(client, task, method, path):
    response = client.request(method, path.replace("{id}", str(task["id"])))
    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"] == "/query/foo"


def test_a_parameter_given_twice_is_refused(client, task):
    response = client.get(f"/v1/tasks/{task['id']}/predict?vector=1&vector=2")
    assert response.json()["errors"] == [
        {"pointer": "/query/vector", "detail": "This parameter is given twice.", "code": "repeated"}
    ]


def test_options_beside_a_json_body_are_refused(client, task):
    response = client.post(f"/v1/tasks/{task['id']}/predict?top_k=1", json={"inputs": [[0.0] * 8]})
    assert (response.status_code, response.json()["errors"][0]["pointer"]) == (422, "/query/top_k")


def test_settings_in_the_query_that_are_no_json_point_at_the_query(client):
    response = client.post(
        "/v1/tasks?backbone=vector-identity&learner_settings={bad", files=[("a", (None, "[1]")), ("b", (None, "[2]"))]
    )
    assert (response.status_code, response.json()["errors"][0]["pointer"]) == (422, "/query/learner_settings")


def test_nothing_is_guessed_from_strings(client):
    support = {"a": [[1.0]], "b": [[2.0]]}
    body = {"backbone": "vector-identity", "support": support, "store_inputs": "yes"}
    response = client.post("/v1/tasks", json=body)
    assert (response.status_code, response.json()["errors"][0]["pointer"]) == (422, "/store_inputs")


@pytest.mark.parametrize("support", [None, 3, "text"])
def test_a_support_that_is_neither_list_nor_map_says_so(client, support):
    response = client.post("/v1/tasks", json={"backbone": "vector-identity", "support": support})
    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"] == "/support"
    assert "list" in response.json()["detail"]


def test_the_content_type_that_curl_sends_by_itself_gets_advice(client):
    headers = {"content-type": "application/x-www-form-urlencoded"}
    response = client.post("/v1/tasks", content=b'{"backbone": "x"}', headers=headers)
    assert response.status_code == 415
    assert "Content-Type: application/json" in response.json()["detail"]


def test_json_is_utf_8_with_or_without_a_byte_order_mark(client):
    body = json.dumps({"backbone": "vector-identity", "support": {"é": [[1.0]], "b": [[2.0]]}}, ensure_ascii=False)
    headers = {"content-type": "application/json"}
    assert client.post("/v1/tasks", content=b"\xef\xbb\xbf" + body.encode(), headers=headers).status_code == 201
    headers = {"content-type": "application/json; charset=utf-16"}
    response = client.post("/v1/tasks", content=body.encode("utf-16"), headers=headers)
    assert response.status_code == 415
    assert "UTF-8" in response.json()["detail"]


@pytest.mark.parametrize("number", [0, -1, 2**63, 10**30])
def test_version_numbers_out_of_range_are_refused(client, task, number):
    assert client.post(f"/v1/tasks/{task['id']}/versions/{number}/activate").status_code == 422
    assert client.get(f"/v1/tasks/{task['id']}/examples", params={"version": number}).status_code == 422


def test_an_answer_that_would_be_huge_is_refused_before_it_is_computed(small_client):
    client = small_client(limits={"scores": 10})
    task = client.post(
        "/v1/tasks", json={"backbone": "vector-identity", "support": {"a": [[1.0]], "b": [[2.0]]}}
    ).json()
    url = f"/v1/tasks/{task['id']}/predict"
    assert client.post(url, json={"inputs": [[1.0]] * 5}).status_code == 200
    response = client.post(url, json={"inputs": [[1.0]] * 6})
    assert (response.status_code, response.json()["code"]) == (413, "too-many-scores")
    assert client.post(url, json={"inputs": [[1.0]] * 6, "top_k": 1}).status_code == 200


def test_many_items_share_one_limit_on_scores_and_count_only_what_they_list(small_client):
    client = small_client(limits={"scores": 10})
    body = {"backbone": "vector-identity", "support": {"a": [[1.0]], "b": [[2.0]]}}
    task = client.post("/v1/tasks", json=body).json()["id"]
    items = [{"task": task, "vector": [1.0], "top_k": 1000}] * 5
    assert all("prediction" in one for one in client.post("/v1/predict", json={"items": items}).json()["items"])
    answered = client.post("/v1/predict", json={"items": [*items, items[0]]}).json()["items"]
    assert [one["problem"]["code"] for one in answered if "problem" in one] == ["too-many-scores"]


def test_logs_show_no_local_variables(capsys):
    import structlog

    from app.api import logs

    before = structlog.get_config()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        for log_format in ("json", "console"):
            logs.configure(log_format, "info")
            secret = "the customer's text"  # a local of the frame that fails
            try:
                raise RuntimeError("boom")
            except RuntimeError:
                structlog.get_logger("test").exception("failed")
            shown = capsys.readouterr().err
            assert "boom" in shown
            assert secret not in shown.replace('secret = "the customer\'s text"', "")
    finally:
        structlog.configure(**before)
        root.handlers[:] = handlers
        root.setLevel(level)
