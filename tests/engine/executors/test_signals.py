"""OpenVINO sets up a stack for signals; a signal must find one, whatever executors came and went."""

import gc
import subprocess
import sys

SCRIPT = """
import gc, signal, sys
from pathlib import Path
from app.backbones import build
from app.engine.executors.openvino_executor import OpenVinoExecutor

exported = Path(sys.argv[1])
backbone = build("resnet12", {"widths": (8, 8, 8, 16), "image_size": 16}).eval()
first, second = (OpenVinoExecutor(backbone, exported) for _ in range(2))
del first
gc.collect()
del second
gc.collect()
signal.signal(signal.SIGTERM, lambda *_: print("heard"))
signal.raise_signal(signal.SIGTERM)
"""


def test_a_signal_is_heard_after_executors_have_gone(make, folder):
    one = make("openvino", "resnet")
    del one
    gc.collect()
    (exported,) = folder.glob(f"{'0' * 64}*.onnx")
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", SCRIPT, str(exported)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "heard\n"), done.stderr
