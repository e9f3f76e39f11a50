"""Support examples that were embedded before cost no forward, and change no answer."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.services.admission import Lane

SERVED = {"protonet": {}, "ridge": {}, "logistic": {}}


def counted(client, name, **labels):
    families = text_string_to_metric_families(client.get("/metrics").text)
    samples = [sample for family in families for sample in family.samples if sample.name == name]
    return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


def embedded(client):
    return counted(client, "imprint_examples_total", backbone="glyphs")


def events(client):
    return {
        event: counted(client, "imprint_embedding_cache_examples_total", event=event)
        for event in ("hit", "miss", "evict")
    }


def created(client, support, learner="protonet"):
    response = client.post("/v1/tasks", json={"backbone": "glyphs", "learner": learner, "support": support})
    assert response.status_code == 201, response.text
    return response.json()["id"]


def scores(client, task, inputs):
    found = client.post(f"/v1/tasks/{task}/predict", json={"inputs": inputs, "top_k": 9}).json()
    return [{one["label"]: one["score"] for one in item["scores"]} for item in found["predictions"]]


def test_a_set_that_is_posted_twice_runs_the_backbone_once(glyph_client, glyphs):
    client = glyph_client(SERVED)
    queries = glyphs("abc", seed=1)["b"]
    first = created(client, glyphs("abc", shot=3))
    assert embedded(client) == 9
    second = created(client, glyphs("abc", shot=3))
    assert embedded(client) == 9
    assert events(client) == {"hit": 9, "miss": 9, "evict": 0}
    assert scores(client, second, queries) == scores(client, first, queries)


def test_what_is_known_counts_as_let_in_but_not_as_computed(glyph_client, glyphs, monkeypatch):
    client, seen, remove = glyph_client(SERVED), [], Lane.remove

    def noted(lane, key, cost, done, now_s):
        seen.append((cost, done))
        remove(lane, key, cost, done, now_s)

    monkeypatch.setattr(Lane, "remove", noted)
    support = glyphs("abc", shot=3)
    for _ in range(2):
        task = created(client, support)
    assert seen == [(9, 9), (9, 1)], "a head by itself is work, too"
    added = client.post(f"/v1/tasks/{task}/examples", json={"support": support})
    assert added.json()["version"] == 1
    body = {"backbone": "glyphs", "learner": "ridge", "support": support, "inputs": glyphs("a", seed=2)["a"]}
    assert client.post("/v1/classify", json=body).status_code == 200
    assert seen[2:] == [(9, 0), (11, 2)]


def test_another_learner_and_other_labels_find_the_same_embeddings(glyph_client, glyphs):
    client = glyph_client(SERVED)
    support = glyphs("abc", shot=3)
    created(client, support)
    created(client, {f"{label}'s": files for label, files in support.items()}, "auto")
    assert embedded(client) == 9


def test_what_is_new_in_a_set_alone_is_embedded(glyph_client, glyphs):
    known, cold = glyph_client(SERVED), glyphs("ab", shot=2, seed=3)
    created(known, glyphs("ab", shot=2))
    mixed = {label: glyphs("ab", shot=2)[label] + cold[label] for label in "ab"}
    task = created(known, mixed)
    assert embedded(known) == 8
    without = created(known, glyphs("ab", shot=2))
    added = known.post(f"/v1/tasks/{without}/examples", json={"support": cold})
    assert added.status_code in {200, 201}, added.text
    assert embedded(known) == 8
    queries = glyphs("ab", seed=9)["a"]
    before = embedded(known)
    assert scores(known, task, queries) == scores(known, without, queries)
    assert embedded(known) == before + 2 * len(queries)


def test_answers_are_those_of_a_server_that_remembers_nothing(glyph_client, glyphs, tmp_path):
    support, queries = glyphs("abc", shot=3), glyphs("abc", seed=1)["c"]
    found = []
    for name, size in (("with", 10**6), ("without", 0)):
        client = glyph_client(SERVED, data_dir=tmp_path / name, engine={"embedding_cache_bytes": size})
        created(client, {label: files[:1] for label, files in support.items()})
        found.append(scores(client, created(client, support), queries))
        assert embedded(client) == (9 if size else 12) + len(queries)
    for with_cache, without in zip(*found, strict=True):
        assert with_cache == pytest.approx(without, abs=1e-6)
    assert events(client) == {"hit": 0, "miss": 0, "evict": 0}


def test_classifying_against_a_known_set_embeds_the_queries_alone(glyph_client, glyphs):
    client = glyph_client(SERVED)
    support, queries = glyphs("abc", shot=3), glyphs("abc", seed=1)["c"]
    task = created(client, support)
    body = {"backbone": "glyphs", "learner": "protonet", "support": support, "inputs": queries, "top_k": 9}
    classified = client.post("/v1/classify", json=body).json()
    assert embedded(client) == 9 + len(queries)
    shown = [{one["label"]: one["score"] for one in item["scores"]} for item in classified["predictions"]]
    assert [pytest.approx(item, abs=1e-6) for item in shown] == scores(client, task, queries)


def test_the_oldest_go_where_the_budget_ends(glyph_client, glyphs):
    room = 4 * (8 * 4 + 512)
    client = glyph_client(SERVED, engine={"embedding_cache_bytes": room})
    created(client, glyphs("ab", shot=2))
    created(client, glyphs("ab", shot=1))  # used again: younger than the others
    created(client, glyphs("cd", shot=1))
    assert counted(client, "imprint_embedding_cache_bytes") == room
    assert events(client) == {"hit": 2, "miss": 6, "evict": 2}
    created(client, glyphs("ab", shot=1))
    assert events(client)["hit"] == 4


@pytest.mark.usefixtures("nudge")
def test_learners_that_adapt_weights_look_nothing_up(glyph_client, glyphs):
    client = glyph_client({**SERVED, "nudge": {}})
    created(client, glyphs("ab"), "nudge")
    created(client, glyphs("ab"), "nudge")
    assert embedded(client) == 8
    assert events(client) == {"hit": 0, "miss": 0, "evict": 0}


def test_vectors_are_their_own_embeddings(glyph_client, vectors):
    client = glyph_client(SERVED)
    for _ in range(2):
        body = {"backbone": "vector-identity", "learner": "protonet", "support": vectors()}
        assert client.post("/v1/tasks", json=body).status_code == 201
    assert events(client) == {"hit": 0, "miss": 0, "evict": 0}
