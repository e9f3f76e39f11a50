"""What meta-training learned of a learner: loaded, shared, part of a task's identity; never drawn afresh."""

import pytest
import torch

from app import learners
from app.backbones import build
from app.checkpoints.card import BadCard
from app.checkpoints.load import load, scan
from app.core.limits import Limits
from app.services.catalogue import Catalogue
from tests.api.conftest import save_glyphs

pytestmark = pytest.mark.usefixtures("nudge")

PROJECTION = {"projection.weight": torch.linspace(-1, 1, 32).reshape(4, 8)}
FACTORS = {"factors": torch.tensor([1.0, 2.0, 3.0])}
LEARNT = {"nudge": {"learned_rates": True}, "protonet": {"projection": 4}, "ridge": {"projection": 4}}
OWN = {"nudge": FACTORS, "protonet": PROJECTION, "ridge": PROJECTION}


def posted(client, support, learner, settings=None):
    body = {"backbone": "glyphs", "learner": learner, "support": support, "learner_settings": settings or {}}
    return client.post("/v1/tasks", json=body)


def code_of(response):
    return response.status_code, response.json()["code"]


def pointers(response):
    return [one["pointer"] for one in response.json()["errors"]]


def catalogue(folder, served, own):
    save_glyphs(folder, served, own)
    return Catalogue({"glyphs": load(scan([folder])["glyphs"])}, Limits())


@pytest.mark.parametrize(
    ("learner", "settings", "pointer"),
    [
        ("protonet", {"projection": 4, "temperature": 2.0}, "/learner_settings/projection"),
        ("nudge", {"steps": 1, "learned_rates": True}, "/learner_settings/learned_rates"),
        ("matching", {"full_context": True}, "/learner_settings/full_context"),
        ("maml", {"learned_rates": True}, "/learner_settings/learned_rates"),
        ("maml", {"head": "fixed", "steps": 2}, "/learner_settings/head"),
        ("anil", {"head": "fixed"}, "/learner_settings/head"),
    ],
)
def test_settings_that_want_weights_the_checkpoint_has_not_are_refused(
    glyph_client, glyphs, learner, settings, pointer
):
    if next(iter(settings)) not in learners.settings_schema(learner)["properties"]:
        pytest.skip("the learner has no such setting")
    client = glyph_client({"protonet": {}, "nudge": {}, "matching": {}, "maml": {}, "anil": {}})
    response = posted(client, glyphs("ab"), learner, settings)
    assert code_of(response) == (422, "invalid-setting")
    assert pointers(response) == [pointer]
    assert "does not hold" in response.json()["detail"]
    classified = {"backbone": "glyphs", "learner": learner, "learner_settings": settings}
    refused = client.post("/v1/classify", json={**classified, "support": glyphs("ab"), "inputs": glyphs("a")["a"]})
    assert pointers(refused) == [pointer]


def test_a_projection_of_another_size_than_the_checkpoints_is_refused(glyph_client, glyphs):
    client = glyph_client(LEARNT, OWN)
    response = posted(client, glyphs("ab"), "protonet", {"projection": 5})
    assert code_of(response) == (422, "invalid-setting")
    assert pointers(response) == ["/learner_settings/projection"]
    assert posted(client, glyphs("ab"), "protonet", {"projection": 0}).status_code == 201


def test_own_weights_are_used_and_bind_the_task(glyph_client, glyphs):
    client = glyph_client(LEARNT, OWN)
    shown = client.get("/v1/backbones/glyphs").json()
    for learner in LEARNT:
        task = posted(client, glyphs("ab"), learner).json()
        served = shown["serves"][learner]
        assert served["own_weights"] is True
        assert task["backbone_sha256"] == served["sha256"] != shown["sha256"]
        answer = client.post(f"/v1/tasks/{task['id']}/predict", json={"inputs": glyphs("ab")["a"]})
        assert answer.status_code == 200, answer.text
    plain = posted(client, glyphs("ab"), "protonet", {"projection": 0}).json()
    assert plain["backbone_sha256"] == shown["sha256"]


def restarted(client, models, served, own):
    """The same registry behind another checkpoint of the same name."""
    client.__exit__(None, None, None)
    save_glyphs(models, served, own)
    client.__enter__()
    return client


def test_other_own_weights_are_a_409_and_the_former_ones_serve_again(glyph_client, glyphs, tmp_path):
    client = glyph_client(LEARNT, OWN)
    learnt, plain = (posted(client, glyphs("ab"), "protonet", settings).json() for settings in ({}, {"projection": 0}))
    query = {"inputs": glyphs("ab")["a"]}
    before = client.post(f"/v1/tasks/{learnt['id']}/predict", json=query).json()["predictions"]
    data = client.get(f"/v1/tasks/{learnt['id']}/export").content
    headers = {"content-type": "application/vnd.safetensors"}
    moved = {name: one + 1 for name, one in PROJECTION.items()}
    for served, own in ((LEARNT, {**OWN, "protonet": moved}), ({"protonet": {}}, {})):
        restarted(client, tmp_path / "models", served, own)
        for response in (
            client.post(f"/v1/tasks/{learnt['id']}/predict", json=query),
            client.post(f"/v1/tasks/{learnt['id']}/examples", json={"support": glyphs("c")}),
            client.post("/v1/tasks/import", content=data, headers=headers),
        ):
            assert code_of(response) == (409, "backbone-mismatch")
        assert client.post(f"/v1/tasks/{plain['id']}/predict", json=query).status_code == 200
    restarted(client, tmp_path / "models", LEARNT, OWN)
    assert client.post(f"/v1/tasks/{learnt['id']}/predict", json=query).json()["predictions"] == before
    assert client.post("/v1/tasks/import", content=data, headers=headers).status_code == 201


def test_a_task_of_before_keeps_its_answers_when_the_card_gains_a_projection(glyph_client, glyphs, tmp_path):
    client = glyph_client({"protonet": {}})
    task = posted(client, glyphs("ab"), "protonet").json()
    data = client.get(f"/v1/tasks/{task['id']}/export").content
    query = {"inputs": glyphs("ab")["a"]}
    before = client.post(f"/v1/tasks/{task['id']}/predict", json=query).json()["predictions"]
    restarted(client, tmp_path / "models", LEARNT, OWN)
    assert client.post(f"/v1/tasks/{task['id']}/predict", json=query).json()["predictions"] == before
    headers = {"content-type": "application/vnd.safetensors"}
    moved = client.post("/v1/tasks/import", content=data, headers=headers)
    assert moved.status_code == 201, moved.text
    assert client.get(f"/v1/tasks/{moved.json()['id']}/export").content == data
    updated = client.post(f"/v1/tasks/{task['id']}/examples", json={"support": glyphs("c")}).json()
    assert updated["learner_settings"]["projection"] == 4, "a new version takes the card's settings of now"
    assert updated["backbone_sha256"] != task["backbone_sha256"]
    back = client.post(f"/v1/tasks/{task['id']}/versions/1/activate")
    assert back.json()["backbone_sha256"] == task["backbone_sha256"]


@pytest.mark.parametrize(
    ("served", "own", "says"),
    [
        ({"protonet": {"projection": 4}}, {}, "projection.weight"),
        ({"protonet": {"projection": 5}}, {"protonet": PROJECTION}, "projection.weight"),
        ({"protonet": {}}, {"protonet": PROJECTION}, "unused"),
        ({"protonet": {"projection": 4}}, {"protonet": {**PROJECTION, "more": torch.ones(1)}}, "more unused"),
        ({"protonet": {"warmth": 1}}, {}, "warmth"),
        ({"prototypical": {}}, {}, "prototypical"),
        ({"nudge": {"head_way": 1}}, {}, "labels"),
        ({"nudge": {"learned_rates": True}}, {"nudge": {"factors": torch.ones(2)}}, "factors"),
    ],
)
def test_a_card_that_does_not_make_its_learners_is_refused_at_the_start(tmp_path, served, own, says):
    with pytest.raises(BadCard, match=says):
        catalogue(tmp_path, served, own)


def test_learners_of_one_checkpoint_share_their_own_weights_and_leave_the_backbone_alone(tmp_path):
    found = catalogue(tmp_path, LEARNT, OWN)
    kit = found.kit("glyphs")
    before = {name: (one.data_ptr(), one.requires_grad) for name, one in kit.checkpoint.backbone.named_parameters()}
    one, other = (found.candidate(kit, "protonet", {"temperature": heat}).learner for heat in (1.0, 3.0))
    assert one is not other
    assert one.projection.weight.data_ptr() == other.projection.weight.data_ptr()
    assert torch.equal(one.projection.weight, PROJECTION["projection.weight"])
    assert not one.projection.weight.requires_grad
    assert not one.training
    after = {name: (one.data_ptr(), one.requires_grad) for name, one in kit.checkpoint.backbone.named_parameters()}
    assert after == before
    assert found.candidate(kit, "protonet", {"temperature": 3.0}).learner is other


def test_the_identity_follows_the_numbers_not_the_file(tmp_path):
    shas = []
    for number, (served, own) in enumerate(
        [
            (LEARNT, OWN),
            ({"protonet": {"projection": 4, "temperature": 9.0}}, {"protonet": PROJECTION}),
            ({"protonet": {"projection": 4}}, {"protonet": {k: v * 2 for k, v in PROJECTION.items()}}),
            ({"protonet": {"projection": 4}}, {"protonet": {k: v.half() for k, v in PROJECTION.items()}}),
        ]
    ):
        found = catalogue(tmp_path / str(number), served, own)
        shas.append(found.candidate(found.kit("glyphs"), "protonet", {}).sha256)
    assert shas[0] == shas[1]
    assert len(set(shas[1:])) == 3


def test_weights_stored_in_half_precision_compute_in_the_learners_own(tmp_path):
    halves = {name: one.half() for name, one in PROJECTION.items()}
    found = catalogue(tmp_path, {"protonet": {"projection": 4}}, {"protonet": halves})
    learner = found.candidate(found.kit("glyphs"), "protonet", {}).learner
    assert learner.projection.weight.dtype == torch.float32
    assert torch.equal(learner.projection.weight, PROJECTION["projection.weight"].half().float())


@pytest.mark.parametrize("name", learners.learner_names())
def test_every_learner_can_be_asked_for_by_name(glyph_client, glyphs, name):
    known = learners.settings_schema(name)["properties"]
    # The random network's embeddings are large.
    wanted = {"learning_rate": 0.01, "head_learning_rate": 0.01, "steps": 2}
    settings = {setting: value for setting, value in wanted.items() if setting in known}
    own = learners.build(name, build("conv4", {"filters": 8}), settings).own_state()
    client = glyph_client({name: settings}, {name: own} if own else {})
    support = glyphs("abcde", 2)
    response = posted(client, support, name)
    assert response.status_code == 201, response.text
    task = response.json()
    url = f"/v1/tasks/{task['id']}"
    answer = client.post(f"{url}/predict", json={"inputs": [support["c"][0]], "top_k": 5}).json()["predictions"][0]
    assert sum(one["score"] for one in answer["scores"]) == pytest.approx(1, abs=1e-5)
    rest = client.delete(f"{url}/labels/e")
    fresh = posted(client, glyphs("abcd", 2), name)
    if rest.status_code == 422:
        assert code_of(rest) == code_of(fresh) == (422, "way-not-allowed")
        return
    query = {"inputs": glyphs("ab", 1, seed=6)["a"]}
    both = [client.post(f"/v1/tasks/{one}/predict", json=query).json() for one in (task["id"], fresh.json()["id"])]
    assert both[0]["predictions"] == both[1]["predictions"]
