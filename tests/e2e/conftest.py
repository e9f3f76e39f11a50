"""Real server processes on loopback."""

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from app.demo.show import LOG, free_port, start_server, wait_until_ready


@dataclass
class Running:
    """A server process and a client of it."""

    url: str
    process: subprocess.Popen[bytes]
    client: httpx.Client

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Running]]:
    """Starts servers on the same data folder; keyword arguments are settings."""
    started = []

    def start(**settings: str) -> Running:
        for name, value in {"backbones": "vector-identity", "device": "cpu", **settings}.items():
            monkeypatch.setenv(f"IMPRINT_{name.upper()}", value)
        port = free_port(0)
        folder = tmp_path / "data"
        folder.mkdir(exist_ok=True)
        process = start_server(port, folder)
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(url, process, folder / LOG)
        running = Running(url, process, httpx.Client(base_url=url, timeout=60))
        started.append(running)
        return running

    yield start
    for one in started:
        one.client.close()
        one.kill()
