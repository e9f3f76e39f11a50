"""Ours beside photo servers of others: what is sent, what is made of the answers, a real server without batching."""

import io
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from app.checkpoints.load import load_all
from app.codecs import RawInput, codec_for, decode_inputs
from app.config import Settings
from app.core.limits import Limits
from benchmarks import peers
from benchmarks.bodies import JPEG, photographs, shared_out
from benchmarks.environments import python_of
from benchmarks.generator import Generator
from benchmarks.peer_rows import PeerScope, serving
from benchmarks.peer_rows.photo_servers import Peer, Running, by_field, by_list, module, onnx_file, peer_server
from benchmarks.peer_rows.photo_tasks import Asked, Query, asked
from benchmarks.peer_servers.photos import Prototypes, by_onnx_runtime, pixels
from benchmarks.setting_up import PHOTO
from benchmarks.table import Row


def test_every_row_has_a_name_on_the_command_line(tmp_path: Path) -> None:
    names = ["serving", "adaptive", "setfit", "algorithms"]

    assert list(peers.ROWS) == names
    assert peers.parser().parse_args(names).rows == names
    with pytest.raises(SystemExit):
        peers.parser().parse_args(["nonsense"])

    given = ["serving", "--rounds", "2", "--seconds", "3", "--tasks", "4", "--cache", str(tmp_path)]
    scope = peers.scope_of(peers.parser().parse_args(given))

    assert scope == PeerScope(rounds=2, seconds=3.0, tasks=4, cache=tmp_path)


def test_the_title_says_what_was_cut_short() -> None:
    assert "FIRST LOOK" not in peers.title(PeerScope())
    assert "A FIRST LOOK: rounds 2 in place of 5, tasks 4 in place of 50." in peers.title(PeerScope(rounds=2, tasks=4))


@pytest.fixture
def _sigterm_as_before() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("_sigterm_as_before")
def test_a_peer_that_cannot_be_installed_takes_no_other_row_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def without_network(scope: PeerScope) -> list[Row]:
        python_of("bad", [str(scope.cache / "missing-1.0-py3-none-any.whl")], scope.cache)
        return []

    rows = {"serving": without_network, "setfit": lambda scope: [Row("seen", scope.rounds, "")]}
    monkeypatch.setattr(peers, "ROWS", rows)
    monkeypatch.setattr(sys, "argv", ["peers", "--rounds", "3", "--cache", str(tmp_path)])

    with pytest.raises(SystemExit, match=r"(?s)The row serving is left out: .*missing-1\.0"):
        peers.main()

    assert "seen" in capsys.readouterr().out


@pytest.mark.parametrize("with_data", [False, True])
def test_tasks_have_five_labels_of_five_and_are_asked_about_their_own(
    with_data: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not with_data:
        monkeypatch.delenv("IMPRINT_DATA", raising=False)

    given = asked(tasks=3, queries=7)

    assert {len(support) for support in given.tasks.values()} == {5}
    assert {len(set(files)) for support in given.tasks.values() for files in support.values()} == {5}
    assert [one.task for one in given.queries] == [f"task-{number % 3}" for number in range(7)]
    for query in given.queries:
        assert query.label in given.tasks[query.task]
        assert all(query.file not in files for files in given.tasks[query.task].values())
    assert given == asked(tasks=3, queries=7)


def test_a_peer_reads_a_photograph_as_the_server_does() -> None:
    checkpoint = load_all(Settings().model_folders(), {PHOTO})[0][PHOTO]
    codec = codec_for(checkpoint, Limits())
    for size in ((256, 256), (400, 300), (224, 500)):
        stream = io.BytesIO()
        Image.open(io.BytesIO(photographs(1, seed=sum(size))[0])).resize(size).save(stream, "JPEG")
        (expected,) = decode_inputs(codec, [RawInput("bytes", stream.getvalue(), "")])

        found = pixels(stream.getvalue()).astype(int)

        assert found.shape == (3, 224, 224)
        assert np.abs(found - expected.tensor.numpy()).mean() < 2


def test_a_query_goes_to_the_nearest_prototype_of_its_own_task() -> None:
    prototypes = Prototypes()
    axes = np.eye(4, dtype=np.float32)
    assert prototypes.learn("a", ["x", "y", "x"], axes[[0, 1, 0]] * 5) == {"task": "a", "labels": ["x", "y"]}
    prototypes.learn("b", ["p", "q"], axes[[1, 0]])

    answer = prototypes.nearest("a", np.asarray([3, 1, 0, 0], np.float32))

    assert answer["label"] == "x"
    assert prototypes.nearest("b", np.asarray([3, 1, 0, 0], np.float32))["label"] == "q"
    assert sum(answer["scores"].values()) == pytest.approx(1)
    assert answer["scores"]["x"] > answer["scores"]["y"]


def test_both_forms_of_a_support_set_carry_the_same_files() -> None:
    support = shared_out([b"one", b"two", b"three", b"four"], way=2)

    for form in (by_field, by_list):
        media_type, body = form(support)
        assert media_type.startswith("multipart/form-data; boundary=")
        places = [body.index(file) for files in support.values() for file in files]
        assert places == sorted(places)
    assert b'["label 0", "label 0", "label 1", "label 1"]' in body


def running(title: str, runtime: str, ours: bool) -> Running:
    return Running(title, runtime, ours, 1, httpx.Client(), 1, "/adapt", by_field)


def seen(rate: list[float], adapt_ms: list[float], labels: list[str]) -> serving.Seen:
    two = [10.0, 10.0]
    return serving.Seen(rate, two, two, two, two, adapt_ms, labels=labels)


def test_ours_is_set_against_each_peer_as_it_comes_and_by_the_same_runtime() -> None:
    servers = [
        running("Ours", "openvino", True),
        running("Ours", "torch", True),
        running("Peer", "torch", False),
    ]
    found = {
        "Ours, openvino": seen([40.0, 60.0], [5.0, 5.0], ["a", "b"]),
        "Ours, torch": seen([10.0, 30.0], [20.0, 40.0], ["a", "a"]),
        "Peer, torch": seen([20.0, 10.0], [10.0, 20.0], ["a", "b"]),
    }
    given = Asked({}, [Query("t", b"", "a"), Query("t", b"", "a")], real=False)

    rows = {row.name: row for row in serving.rows_of(servers, found, given)}

    assert rows["Ours, openvino"].value == 50.0
    assert [rows[name].columns["accuracy"] for name in found] == ["50.0 %", "100.0 %", "50.0 %"]
    as_it_comes, same = rows["Ours, openvino, over Peer, torch"], rows["Ours, torch, over Peer, torch"]
    assert (as_it_comes.value, as_it_comes.verdict) == (4.0, "met")
    assert "each as it comes; ahead in all" in as_it_comes.note
    assert same.value == pytest.approx(1.75)
    assert same.columns["adapt ms"] == "x 2.00"
    assert "same work; BEHIND in adapt ms" in same.note
    assert rows["queries that all servers answer alike"].note == "1 of 2"


def test_who_answers_fewer_a_second_is_behind() -> None:
    ours, theirs = running("Ours", "torch", True), running("Peer", "torch", False)
    found = {ours.name: seen([10.0, 12.0], [5.0, 5.0], ["a"]), theirs.name: seen([20.0, 20.0], [5.0, 5.0], ["a"])}
    row = serving.over(ours, theirs, found)
    assert (row.value, row.verdict) == (pytest.approx(0.55), "MISSED")
    assert row.note.endswith("BEHIND in 1/s")


UNBATCHED = Peer("FastAPI", ("fastapi",), module("fastapi_app"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_short_real_run_of_a_server_without_batching(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite_pytorch", reason="the extra dev has the network")
    given = asked(tasks=2, queries=4)
    with (
        peer_server(UNBATCHED, Path(sys.executable), "torch", tmp_path, {"OMP_NUM_THREADS": "1"}) as one,
        Generator(photographs(8, seed=1)) as generator,
    ):
        for task, support in given.tasks.items():
            assert one.adapt(task, support) > 0
        labels = serving.answers(one, given, clients=2)
        found = serving.Seen()
        serving.load(one, found, generator, PeerScope(seconds=0.5, clients=2), list(given.tasks))
        unknown = one.client.post("/predict?task=nobody", content=b"", headers={"Content-Type": JPEG})

    assert all(label in given.tasks[query.task] for query, label in zip(given.queries, labels, strict=True))
    assert found.failed == 0
    assert found.rate[0] > 0
    assert found.memory_mib[0] > 50
    assert unknown.is_error
    assert one.note.startswith("fastapi ")


def test_the_exported_backbone_is_what_a_peer_can_run(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    checkpoint = load_all(Settings().model_folders(), {PHOTO})[0][PHOTO]
    photos = np.stack([pixels(file) for file in photographs(2, seed=5)])

    found = by_onnx_runtime(str(onnx_file(tmp_path)))(photos)

    expected = checkpoint.backbone(torch.from_numpy(photos)).detach().numpy()
    assert np.abs(found - expected).max() < 1e-3
