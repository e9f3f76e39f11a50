"""`imprint bench`: a real short run, and its parts."""

import io
import json
import os
import subprocess
import sys
import threading
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.bench import usage
from app.bench.bodies import traffic
from app.bench.run import Refused, chosen
from app.config import Settings
from app.core.threads import name_this_thread

IMAGE = {"modality": "image", "input_shape": [3, 224, 224]}
GREY = {"modality": "image", "input_shape": [1, 28, 28]}
TEXT = {"modality": "text", "input_shape": [None]}
VECTOR = {"modality": "vector", "input_shape": [None]}


def _bench(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "IMPRINT_DATA_DIR": str(folder), "COLUMNS": "200"}
    command = [sys.executable, "-m", "app", "bench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """One run over the smallest backbone, and one over images."""
    folder = tmp_path_factory.mktemp("bench")
    file = folder / "found.json"
    done = _bench(
        folder / "data",
        *("--backbone", "vector-identity", "--backbone", "glyph-conv4-protonet"),
        *("--seconds", "1", "--clients", "4", "--json", str(file)),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, json.loads(file.read_text()), folder


def test_each_backbone_ends_with_a_sentence_of_what_binds(ran):
    out, found, _ = ran
    for one in found["backbones"]:
        assert len(one["verdicts"]) == 2
        for sentence in one["verdicts"]:
            assert sentence in out
            assert any(words in sentence for words in ("bind", "limit"))


def test_every_part_is_weighed(ran):
    _, found, _ = ran
    names = ["backbone", "heads", "decode", "HTTP"] if sys.platform == "linux" else ["backbone", "heads"]
    assert [one["backbone"] for one in found["backbones"]] == ["glyph-conv4-protonet", "vector-identity"]
    for one in found["backbones"]:
        assert [part["name"] for part in one["predict"]["parts"]] == names
        assert [part["name"] for part in one["record"]["parts"]] == [*names, "database"]
        for kind in ("predict", "record"):
            assert one[kind]["failed"] == 0
            assert one[kind]["predictions_a_second"] > 0
            assert one[kind]["p50_ms"] <= one[kind]["p99_ms"]
            assert all(part["seconds"] >= 0 for part in one[kind]["parts"])
        assert one["adapt_s"] > 0


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_images_are_decoded_by_threads_that_are_told_from_the_rest(ran):
    _, found, _ = ran
    parts = {part["name"]: part for part in found["backbones"][0]["predict"]["parts"]}
    assert set(parts) >= {"decode", "HTTP"}  # their seconds are whole ticks of the system, maybe none
    assert parts["backbone"]["seconds"] > 0
    assert parts["heads"]["seconds"] > 0


def test_nothing_of_the_operators_data_is_touched(ran):
    *_, folder = ran
    assert not (folder / "data").exists()


def test_an_unknown_backbone_is_refused_by_name(tmp_path):
    done = _bench(tmp_path, "--backbone", "none-such")
    assert done.returncode == 1
    assert "There is no backbone none-such; there are:" in done.stdout
    assert "vector-identity" in done.stdout


def test_one_backbone_of_each_make_is_measured_unless_named():
    names = chosen(Settings(), [])
    assert "vector-identity" in names
    assert [name for name in names if name.startswith("glyph")] == ["glyph-conv4-protonet", "glyph-conv4-wide"]
    assert chosen(Settings(), ["glyph-conv4-maml", "glyph-conv4-protonet"]) == [
        "glyph-conv4-maml",
        "glyph-conv4-protonet",
    ]
    assert chosen(Settings(backbones="glyph-conv4-maml"), []) == ["glyph-conv4-maml"]
    with pytest.raises(Refused, match="none-such"):
        chosen(Settings(), ["none-such"])


@pytest.mark.parametrize("card", [IMAGE, GREY, TEXT, VECTOR])
def test_no_two_bodies_are_alike(card):
    bodies = list(islice(traffic(card).bodies, 600))
    assert len(set(bodies)) == 600


@pytest.mark.parametrize(("card", "size"), [(IMAGE, (256, 256)), (GREY, (28, 28))])
def test_pictures_are_pictures_also_with_a_number_behind_them(card, size):
    for body in islice(traffic(card).bodies, 100, 103):
        image = Image.open(io.BytesIO(body))
        image.load()
        assert image.size == size
        assert np.asarray(image).std() > 10


@pytest.mark.parametrize("card", [TEXT, VECTOR])
def test_json_bodies_say_whether_to_record(card):
    assert json.loads(next(traffic(card).bodies))["record"] is False
    assert json.loads(next(traffic(card, record=True).bodies))["record"] is True


def test_images_say_it_in_the_query():
    assert traffic(IMAGE, record=True).query == "?record=true"
    assert traffic(IMAGE).query == ""


def test_a_line_of_a_thread_is_read_whatever_its_name_holds():
    assert usage.parsed("12 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 31 11 0 0 20 0") == ("a (b) c", 42)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_cpu_seconds_go_to_the_thread_that_took_them():
    seen, stop = [], threading.Event()

    def work() -> None:
        name_this_thread(usage.DECODE)
        while not stop.is_set():
            sum(range(1000))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        end_s = time.monotonic() + 30
        while usage.thread_seconds(os.getpid()).get(usage.DECODE, 0.0) < 0.05:
            assert time.monotonic() < end_s
            stop.wait(0.01)
        seen.append(usage.thread_seconds(os.getpid()))
    finally:
        stop.set()
        thread.join()
    assert set(seen[0]) >= {usage.LOOP, usage.DECODE}


def test_where_there_is_no_proc_nothing_is_told(tmp_path):
    assert usage.thread_seconds(1, tmp_path) == {}
    assert usage.idle_seconds(tmp_path) is None


def test_seconds_are_read_from_the_metrics_of_one_backbone():
    text = (
        "# TYPE imprint_batch_seconds counter\n"
        'imprint_batch_seconds_total{backbone="a"} 2.5\nimprint_batch_seconds_total{backbone="b"} 9\n'
        '# TYPE imprint_head_seconds counter\nimprint_head_seconds_total{backbone="a"} 0.5\n'
    )
    found = usage.counted({}, None, text, "a")
    assert (found.backbone_s, found.heads_s) == (2.5, 0.5)
