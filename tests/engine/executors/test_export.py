"""Exports are made once, and anew where they are damaged or old."""

import subprocess
import sys

import pytest
import torch

from app.backbones import build
from app.checkpoints.golden import probe_inputs
from app.engine.executors.check import TOLERANCE, deviation
from app.engine.executors.choose import COMPILED
from app.engine.executors.export import exported, stem
from app.engine.executors.torch_executor import TorchExecutor

SHA256 = "ab" * 32


@pytest.fixture
def backbone():
    return build("conv4", {"filters": 8, "image_size": 16}).eval()


def answers(executor, backbone, export):
    return COMPILED[executor](backbone, export.path).embed([probe_inputs(backbone)])


def test_the_reference_is_what_torch_embeds(backbone, tmp_path):
    wanted = TorchExecutor(backbone, torch.device("cpu")).embed([probe_inputs(backbone)])
    assert torch.equal(exported(backbone, SHA256, tmp_path).reference, wanted)
    assert torch.equal(exported(backbone, SHA256, tmp_path).reference, wanted)


def test_a_second_start_reads_what_the_first_one_made(backbone, tmp_path):
    def files():
        return {one.name: (one.stat().st_ino, one.stat().st_mtime_ns) for one in tmp_path.iterdir()}

    for executor in COMPILED:
        answers(executor, backbone, exported(backbone, SHA256, tmp_path))
    made = files()
    assert sorted(name.rpartition(".")[2] for name in made) == ["onnx", "openvino", "safetensors"]
    for executor in COMPILED:
        answers(executor, backbone, exported(backbone, SHA256, tmp_path))
    assert files() == made


@pytest.mark.parametrize("suffix", ["onnx", "safetensors", "openvino"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "gone"])
@pytest.mark.parametrize("executor", COMPILED)
def test_a_damaged_file_is_made_anew(backbone, tmp_path, executor, damage, suffix):
    wanted = answers("openvino", backbone, exported(backbone, SHA256, tmp_path))
    (path,) = tmp_path.glob(f"*.{suffix}")
    content = bytearray(path.read_bytes())
    whole = bytes(content)
    if damage == "gone":
        path.unlink()
    else:
        content[len(content) // 2] ^= 255
        path.write_bytes({"cut": content[:-100], "flipped": content, "emptied": b""}[damage])
    features = answers(executor, backbone, exported(backbone, SHA256, tmp_path))
    assert deviation(features, wanted) <= TOLERANCE
    if suffix != "openvino" or executor == "openvino":
        assert len(path.read_bytes()) == len(whole)


def test_what_older_code_exported_is_removed_and_nothing_else(backbone, tmp_path):
    for name in (f"{SHA256}-0000.onnx", f"{SHA256}-0000-11.json", f"{'cd' * 32}-0000.onnx"):
        (tmp_path / name).write_text("old")
    exported(backbone, SHA256, tmp_path)
    left = sorted(one.name for one in tmp_path.iterdir())
    assert left == sorted([f"{stem(SHA256)}.onnx", f"{stem(SHA256)}.safetensors", f"{'cd' * 32}-0000.onnx"])


STARTS = """
import sys, torch
from pathlib import Path
from app.checkpoints.load import load, scan
from app.config import bundled_models
from app.engine.executors.choose import Wish, choose
torch.set_num_threads(1)
found = load(scan([bundled_models()])["glyph-conv4-protonet"])
choice = choose(found.backbone, found.sha256, torch.device("cpu"), Wish(sys.argv[2], Path(sys.argv[1])))
print(choice.executor.name)
"""


def test_two_processes_may_start_at_once(tmp_path, subjects, caplog):
    command = [sys.executable, "-W", "error", "-c", STARTS, tmp_path, "openvino"]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for one in started:
        out, errors = one.communicate(timeout=120)
        assert (one.returncode, out.strip()) == (0, "openvino"), errors
    assert len(list(tmp_path.iterdir())) == 3
    glyph = subjects["glyph"]
    assert exported(glyph.backbone, glyph.sha256, tmp_path).path.is_file()
    assert caplog.text == ""


SILENT = """
import sys, time, torch
from pathlib import Path
from app.backbones import build
from app.checkpoints.golden import probe_inputs
from app.engine.executors.choose import COMPILED
from app.engine.executors.export import exported
backbone = build("conv4", {"filters": 8}).eval()
export = exported(backbone, "0" * 64, Path(sys.argv[1]))
for make in COMPILED.values():
    make(backbone, export.path).embed([probe_inputs(backbone)])
time.sleep(0.5)
assert not [name for name, module in sys.modules.items() if "telemetry" in name and "sender" in name]
"""


def test_no_library_begins_to_report_to_its_makers(tmp_path):
    """Unhindered, both libraries put an identifier into the home folder, to send it along."""
    home = tmp_path / "home"
    home.mkdir()
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", SILENT, tmp_path / "executors"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    assert list(home.rglob("*")) == []
