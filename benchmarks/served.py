"""A real server in a process of its own: `imprint serve` with a folder for its data, settings in its environment."""

import http.client
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, final

import httpx
from prometheus_client.parser import text_string_to_metric_families

from app.demo.show import free_port
from benchmarks.pipe import ROOT, pinned
from benchmarks.process import Usage, usage

START_TIMEOUT_S: Final = 300.0
POLL_S: Final = 0.005
LOG: Final = "server.log"


@final
class Server:
    """One that runs. `started_s` is how long it took from the start of the process to /readyz."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, began_s: float, log: Path) -> None:
        self._process = process
        self.port = port
        self.started_s = wait_until_ready(process, port, began_s, log)
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=600)

    @property
    def pid(self) -> int:
        """The process that was started; it may have children."""
        return self._process.pid

    def usage(self) -> Usage:
        """Of all its processes."""
        return usage(self.pid)

    def asked(self, path: str, **how: Any) -> dict[str, Any]:
        """POST. Raises: `RuntimeError` for what is no success."""
        response = self.client.post(path, **how)
        if response.is_error:
            raise RuntimeError(f"{path}: {response.status_code} {response.text[:500]}")
        answer: dict[str, Any] = response.json()
        return answer

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        text = self.client.get("/metrics").text
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def executor(self, backbone: str) -> str:
        """What runs a backbone here."""
        card = self.client.get(f"/v1/backbones/{backbone}").json()
        return str((card.get("executor") or {"name": "torch"})["name"])

    def task_ids(self) -> list[str]:
        """Of all tasks, newest first."""
        found: list[str] = []
        query = {"limit": "200"}
        while True:
            page = self.client.get("/v1/tasks", params=query).json()
            found += [one["id"] for one in page["tasks"]]
            if page["next_cursor"] is None:
                return found
            query["cursor"] = page["next_cursor"]


@contextmanager
def serving(
    settings: Mapping[str, str],
    *,
    folder: Path | None = None,
    cores: Collection[int] | None = None,
) -> Iterator[Server]:
    """A fresh server. Keys of `settings` are those of the documentation without the prefix, in any case.

    Its log is a file in the folder, as an operator would have it. None of the caller's own IMPRINT_ settings reach it.
    Raises: `RuntimeError` with the log's end where it does not come up.
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith("IMPRINT_")}
    environment |= {f"IMPRINT_{name.upper()}": value for name, value in settings.items()}
    with tempfile.TemporaryDirectory(prefix="imprint-bench-") as scratch:
        own = folder or Path(scratch)
        port = free_port(0)
        environment |= {"IMPRINT_DATA_DIR": str(own / "data"), "IMPRINT_HOST": "127.0.0.1"}
        began_s = time.monotonic()
        with process([sys.executable, "-m", "app", "serve", "--port", str(port)], own / LOG, cores, environment) as one:
            server = Server(one, port, began_s, own / LOG)
            with server.client:
                yield server


@contextmanager
def process(
    command: Sequence[str], log: Path, cores: Collection[int] | None, environment: Mapping[str, str] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """Anything that logs into a file and ends on SIGTERM; what it started and left behind is killed."""
    with log.open("ab") as stream, pinned(cores):
        started = subprocess.Popen(  # noqa: S603 - our own command
            command,
            env=environment,
            stdout=stream,
            stderr=stream,
            stdin=subprocess.DEVNULL,
            cwd=ROOT,
            process_group=0,
        )
    try:
        yield started
    finally:
        started.send_signal(signal.SIGTERM)
        try:
            started.wait(timeout=60)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()
        with suppress(ProcessLookupError):  # nobody is left, as it should be
            os.killpg(started.pid, signal.SIGKILL)


def wait_until_ready(started: "subprocess.Popen[bytes]", port: int, began_s: float, log: Path) -> float:
    """Seconds since `began_s` when /readyz says 200. Raises: `RuntimeError` with the log's end."""
    while time.monotonic() < began_s + START_TIMEOUT_S and started.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return time.monotonic() - began_s
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(POLL_S)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
    raise RuntimeError(f"The server did not come up; the end of its log:\n{tail}")
