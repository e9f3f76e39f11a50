"""Starts a server of its own, talks to it as any client would, and prints what came back."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import httpx
from rich.console import Console
from rich.table import Table

from app.demo.samples import Sample, digits, tickets

START_TIMEOUT_S = 120.0
SHOWN = 8
LOG = "demo-server.log"


@dataclass(frozen=True)
class Result:
    """What the server did with one sample."""

    sample: Sample
    task: Mapping[str, object]
    predictions: list[Mapping[str, object]]
    adapt_ms: float
    predict_ms: float
    one_ms: float

    @property
    def accuracy(self) -> float:
        """Fraction of the held-out examples that were named right."""
        pairs = zip(self.predictions, self.sample.answers, strict=True)
        return sum(one["label"] == answer for one, answer in pairs) / len(self.sample.answers)


def run(*, once: bool, port: int) -> int:
    """The whole demo; the exit status. With `once` the server and its data are gone afterwards."""
    console = Console()
    url = f"http://127.0.0.1:{port}"
    if not once and answers(url):
        console.print(f"A server already runs at {url}: the demo talks to that one.")
        return 0 if show(console, url) else 1
    with tempfile.TemporaryDirectory(prefix="imprint-demo-") as scratch:
        folder = Path(scratch) if once else Path(os.environ.get("IMPRINT_DATA_DIR", ".imprint")).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        port = free_port(port)
        url = f"http://127.0.0.1:{port}"
        server = start_server(port, folder)
        try:
            wait_until_ready(url, server, folder / LOG)
            fine = show(console, url)
        except RuntimeError as error:
            console.print(f"[red]The demo failed:[/red] {error}")
            fine = False
        if once or not fine:
            stop(server)
            console.print("The server was stopped.")
            return 0 if fine else 1
    console.print(f"The server is still running at [bold]{url}[/bold] (try {url}/docs), process {server.pid}.")
    console.print(f"Its data and its log {LOG} lie in {folder}. Stop it with: kill {server.pid}")
    return 0


def answers(url: str) -> bool:
    """Whether an Imprint server is there and ready."""
    try:
        return bool(httpx.get(f"{url}/readyz", timeout=2.0).json().get("engine") == "ok")
    except (httpx.HTTPError, ValueError):
        return False


def show(console: Console, url: str) -> bool:
    """Make the classifiers, ask them, print the tables; false when the server refused something."""
    try:
        with httpx.Client(base_url=url, timeout=120.0) as client:
            results = [classify(client, sample) for sample in (digits(), tickets())]
    except (httpx.HTTPError, RuntimeError) as error:
        console.print(f"[red]The demo failed:[/red] {error}")
        return False
    for result in results:
        show_answers(console, result)
    show_summary(console, results)
    return True


def free_port(wanted: int) -> int:
    """The wanted port if nobody listens there, else one that the system chooses."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise RuntimeError("no TCP port is free")


def start_server(
    port: int, folder: Path, changed: Mapping[str, str | None] = MappingProxyType({})
) -> subprocess.Popen[bytes]:
    """A server in a session of its own, so that it outlives this process; it logs into the folder.

    `changed` holds settings without their prefix; None takes one away.
    """
    wanted = {f"IMPRINT_{name}": value for name, value in changed.items()}
    wanted |= {"IMPRINT_DATA_DIR": str(folder), "IMPRINT_HOST": "127.0.0.1"}
    environment = {name: value for name, value in {**os.environ, **wanted}.items() if value is not None}
    command = [sys.executable, "-m", "app", "serve", "--port", str(port)]
    with (folder / LOG).open("ab") as log:
        return subprocess.Popen(  # noqa: S603 - our own command
            command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
        )


def wait_until_ready(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Wait for /readyz. Raises `RuntimeError` with the log's end when the server does not come up."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        try:
            if httpx.get(f"{url}/readyz", timeout=2.0).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
    raise RuntimeError(f"the server did not come up; the end of its log:\n{tail}")


def stop(server: subprocess.Popen[bytes]) -> None:
    """End the server and wait for it."""
    server.send_signal(signal.SIGTERM)
    try:
        server.wait(timeout=30)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def classify(client: httpx.Client, sample: Sample) -> Result:
    """Make a classifier from the sample's examples and ask it about the held-out ones."""
    started = time.perf_counter()
    body = {"backbone": sample.backbone, "support": sample.support}
    task = _checked(client.post("/v1/tasks", json=body))
    adapted = time.perf_counter()
    answer = _checked(client.post(f"/v1/tasks/{task['id']}/predict", json={"inputs": sample.queries, "top_k": 1}))
    predicted = time.perf_counter()
    _checked(client.post(f"/v1/tasks/{task['id']}/predict", json={"inputs": sample.queries[:1], "top_k": 1}))
    ended = time.perf_counter()
    return Result(
        sample,
        task,
        answer["predictions"],
        1000 * (adapted - started),
        1000 * (predicted - adapted) / len(sample.queries),
        1000 * (ended - predicted),
    )


def _checked(response: httpx.Response) -> "dict[str, list[Mapping[str, object]]]":
    if response.is_error:
        raise RuntimeError(f"{response.request.method} {response.request.url}: {response.status_code} {response.text}")
    found: dict[str, list[Mapping[str, object]]] = response.json()
    return found


def show_answers(console: Console, result: Result) -> None:
    """A few held-out examples with the server's answers, spread over the labels."""
    table = Table(title=f"Some held-out {result.sample.title}", title_justify="left")
    for heading in ("held-out example", "answer", "confidence", ""):
        table.add_column(heading, justify="right" if heading == "confidence" else "left")
    step = max(1, len(result.predictions) // SHOWN)
    for index in range(0, len(result.predictions), step)[:SHOWN]:
        one, answer = result.predictions[index], result.sample.answers[index]
        verdict = "[green]right[/green]" if one["label"] == answer else f"[red]wrong, it is {answer}[/red]"
        table.add_row(result.sample.shown[index], str(one["label"]), f"{one['confidence']:.2f}", verdict)
    console.print(table)


def show_summary(console: Console, results: list[Result]) -> None:
    """Accuracy and milliseconds."""
    table = Table(title="Classifiers made over HTTP", title_justify="left")
    for heading in ("classifier", "learner", "accuracy", "held out", "adapt ms", "predict ms each", "one alone ms"):
        table.add_column(heading, justify="left" if heading in ("classifier", "learner") else "right")
    for one in results:
        table.add_row(
            one.sample.title,
            str(one.task["learner"]),
            f"{one.accuracy:.1%}",
            str(len(one.sample.answers)),
            f"{one.adapt_ms:.0f}",
            f"{one.predict_ms:.1f}",
            f"{one.one_ms:.1f}",
        )
    console.print(table)
