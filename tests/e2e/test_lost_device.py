"""A device that is lost to the process, as a CUDA device is after an illegal access: the server ends in good order.

What fails here is caused on the CPU, at the place where a lost CUDA device fails: the wait for it.
"""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from app.cli import DEVICE_LOST
from app.demo.show import LOG, free_port, wait_until_ready
from app.engine.clock import CpuClock

BREAKABLE = f"""
import os
from app.cli import main
from app.engine.clock import {CpuClock.__name__}

def settle(clock):
    if os.path.exists(os.environ["BROKEN"]):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

{CpuClock.__name__}.settle = settle
{CpuClock.__name__}.answers = lambda clock: not os.path.exists(os.environ["BROKEN"])
main()
"""

VECTORS = {
    "backbone": "vector-identity",
    "learner": "protonet",
    "support": [{"vector": [1.0, 0.0], "label": "a"}, {"vector": [0.0, 1.0], "label": "b"}],
}


@pytest.fixture
def breakable(tmp_path: Path):
    """A server process, its address, and the file whose presence breaks its device."""
    port, broken = free_port(0), tmp_path / "broken"
    settings = {"DATA_DIR": str(tmp_path), "BACKBONES": "vector-identity", "DEVICE": "cpu", "LOG_FORMAT": "json"}
    environment = {**os.environ, **{f"IMPRINT_{name}": one for name, one in settings.items()}, "BROKEN": str(broken)}
    with (tmp_path / LOG).open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", BREAKABLE, "serve", "--port", str(port)], env=environment, stdout=log, stderr=log
        )
    try:
        wait_until_ready(f"http://127.0.0.1:{port}", process, tmp_path / LOG)
        yield process, f"http://127.0.0.1:{port}", broken
    finally:
        process.kill()
        process.wait()


def test_a_server_whose_device_is_lost_answers_and_ends_with_an_exit_code_of_its_own(breakable, tmp_path):
    process, url, broken = breakable
    with httpx.Client(base_url=url, timeout=30) as client:
        task = client.post("/v1/tasks", json=VECTORS).json()["id"]
        path = f"/v1/tasks/{task}/predict"
        assert client.post(path, json={"inputs": [{"vector": [1.0, 0.1]}]}).status_code == 200
        broken.touch()
        answer = client.post(path, json={"inputs": [{"vector": [1.0, 0.1]}]})
    # On the CPU the prediction itself was answered before the wait that fails.
    assert answer.status_code in (200, 503), answer.text
    assert process.wait(timeout=30) == DEVICE_LOST
    log = (tmp_path / LOG).read_text()
    assert "The server must be started again." in log
    assert '"event":"stopped"' in log.replace(" ", ""), "in good order: the registry was closed"
