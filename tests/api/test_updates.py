"""Online learning: new versions equal a fresh fit, whatever the order; history and rollback."""

import itertools

import pytest

VECTOR = {"backbone": "vector-identity"}


def made(client, support, **more):
    response = client.post("/v1/tasks", json={**VECTOR, "support": support, **more})
    assert response.status_code == 201, response.text
    return response.json()


def scores(client, task_id, queries):
    answer = client.post(f"/v1/tasks/{task_id}/predict", json={"inputs": queries, "top_k": 100})
    assert answer.status_code == 200, answer.text
    return [{one["label"]: one["score"] for one in each["scores"]} for each in answer.json()["predictions"]]


def assert_same(left, right):
    for one, other in zip(left, right, strict=True):
        assert one == pytest.approx(other, abs=1e-6)


@pytest.mark.parametrize("learner", ["protonet", "ridge", "logistic", "matching", "auto"])
def test_examples_added_in_any_order_give_what_a_fresh_fit_gives(client, vectors, learner):
    whole = vectors("abc", shot=4)
    queries = [one for given in vectors(seed=3).values() for one in given]
    expected = scores(client, made(client, whole, learner=learner)["id"], queries)
    parts = [{"a": whole["a"][2:]}, {"b": whole["b"][2:]}, {"c": whole["c"][2:]}]
    for order in itertools.islice(itertools.permutations(parts), 0, 6, 2):
        task = made(client, {label: given[:2] for label, given in whole.items()}, learner=learner)
        for number, part in enumerate(order, start=2):
            response = client.post(f"/v1/tasks/{task['id']}/examples", json={"support": part})
            assert response.status_code == 200, response.text
            assert response.json()["version"] == number
        assert_same(scores(client, task["id"], queries), expected)


def test_a_new_label_can_be_added_and_removed_again(client, vectors):
    task = made(client, vectors("ab"))
    url = f"/v1/tasks/{task['id']}"
    before = scores(client, task["id"], vectors("a")["a"])
    added = client.post(f"{url}/examples", json={"support": vectors("c")}).json()
    assert added["labels"] == ["a", "b", "c"]
    removed = client.delete(f"{url}/labels/c").json()
    assert removed["labels"] == ["a", "b"]
    assert removed["version"] == 3
    assert scores(client, task["id"], vectors("a")["a"]) == before


def test_removing_examples_by_id_equals_never_having_had_them(client, vectors):
    whole = vectors("ab", shot=3)
    task = made(client, whole)
    url = f"/v1/tasks/{task['id']}"
    listed = client.get(f"{url}/examples", params={"label": "a", "limit": 2}).json()
    rest = client.get(f"{url}/examples", params={"label": "a", "cursor": listed["next_cursor"]}).json()
    ids = [one["id"] for one in listed["examples"] + rest["examples"]]
    assert len(ids) == 3
    kept = client.delete(f"{url}/examples", params={"example_id": ids[:2]}).json()
    assert kept["shots"] == {"a": 1, "b": 3}
    (left,) = client.get(f"{url}/examples", params={"label": "a"}).json()["examples"]
    candidates = [made(client, {"a": [one], "b": whole["b"]}) for one in whole["a"]]
    (fresh,) = [
        one
        for one in candidates
        if left["id"] in [e["id"] for e in client.get(f"/v1/tasks/{one['id']}/examples").json()["examples"]]
    ]
    queries = vectors("ab", seed=8)["b"]
    assert_same(scores(client, task["id"], queries), scores(client, fresh["id"], queries))


def test_adding_what_is_there_already_changes_nothing(client, vectors):
    task = made(client, vectors("ab"))
    again = client.post(f"/v1/tasks/{task['id']}/examples", json={"support": vectors("a")})
    assert again.status_code == 200
    assert again.json()["version"] == 1


def test_an_example_that_was_removed_can_come_back(client, vectors):
    task = made(client, vectors("abc"))
    url = f"/v1/tasks/{task['id']}"
    before = scores(client, task["id"], vectors("b", seed=4)["b"])
    assert client.delete(f"{url}/labels/b").status_code == 200
    back = client.post(f"{url}/examples", json={"support": {"b": vectors("abc")["b"]}})
    assert back.json()["version"] == 3
    assert_same(scores(client, task["id"], vectors("b", seed=4)["b"]), before)


def test_activating_an_older_version_rolls_back_and_the_history_stays(client, vectors):
    task = made(client, vectors("ab"))
    url = f"/v1/tasks/{task['id']}"
    before = scores(client, task["id"], vectors("b")["b"])
    client.post(f"{url}/examples", json={"support": vectors("c")})
    back = client.post(f"{url}/versions/1/activate")
    assert back.json()["version"] == 1
    assert scores(client, task["id"], vectors("b")["b"]) == before
    versions = client.get(f"{url}/versions").json()["versions"]
    assert [(one["version"], one["active"]) for one in versions] == [(2, False), (1, True)]
    branch = client.post(f"{url}/examples", json={"support": vectors("d")}).json()
    assert (branch["version"], branch["parent"], branch["labels"]) == (3, 1, ["a", "b", "d"])
    missing = client.post(f"{url}/versions/99/activate")
    assert (missing.status_code, missing.json()["code"]) == (404, "version-not-found")


def test_updates_honour_if_match(client, vectors):
    task = made(client, vectors("ab"))
    url = f"/v1/tasks/{task['id']}"
    etag = client.get(url).headers["etag"]
    assert client.post(f"{url}/examples", json={"support": vectors("c")}, headers={"if-match": etag}).status_code == 200
    for response in (
        client.post(f"{url}/examples", json={"support": vectors("d")}, headers={"if-match": etag}),
        client.delete(f"{url}/labels/a", headers={"if-match": etag}),
        client.post(f"{url}/versions/1/activate", headers={"if-match": etag}),
        client.delete(url, headers={"if-match": etag}),
    ):
        assert response.status_code == 412
    assert client.get(url).json()["version"] == 2


def test_the_last_two_labels_cannot_be_removed(client, vectors):
    task = made(client, vectors("ab"))
    response = client.delete(f"/v1/tasks/{task['id']}/labels/a")
    assert (response.status_code, response.json()["code"]) == (422, "too-few-labels")
    assert client.get(f"/v1/tasks/{task['id']}").json()["version"] == 1


def test_unknown_labels_and_examples_cannot_be_removed(client, vectors):
    task = made(client, vectors("ab"))
    label = client.delete(f"/v1/tasks/{task['id']}/labels/zebra")
    assert (label.status_code, label.json()["code"]) == (404, "label-not-found")
    example = client.delete(f"/v1/tasks/{task['id']}/examples", params={"example_id": "ex_none"})
    assert (example.status_code, example.json()["code"]) == (422, "example-not-found")


def test_added_vectors_must_have_the_size_of_the_task(client, vectors):
    task = made(client, vectors("ab", dim=8))
    response = client.post(f"/v1/tasks/{task['id']}/examples", json={"support": vectors("c", dim=9)})
    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"].startswith("/support/c/0")
    assert client.get(f"/v1/tasks/{task['id']}").json()["version"] == 1


def test_updates_work_when_inputs_are_not_stored(client, vectors):
    task = made(client, vectors("ab"), store_inputs=False)
    updated = client.post(f"/v1/tasks/{task['id']}/examples", json={"support": vectors("c")})
    assert updated.json()["labels"] == ["a", "b", "c"]
    listed = client.get(f"/v1/tasks/{task['id']}/examples").json()["examples"]
    assert not any(one["stored"] for one in listed)
