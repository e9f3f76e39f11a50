"""Our server with the text checkpoint that has not seen CLINC150, and that network as a folder for the peers."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from app.checkpoints.load import load, scan
from app.config import bundled_models
from benchmarks.peer_rows import PeerScope
from benchmarks.peer_texts import Draw, checkpoint
from benchmarks.peer_weights import write_folder
from benchmarks.pipe import Waiting
from benchmarks.scores import SIBLINGS
from benchmarks.served import Server, serving

LAUNCH: Final = "benchmarks.peer_servers.launch"
PUBLISHED: Final = "text-minilm"
LAST_LINES: Final = 20


@contextmanager
def our_server(scope: PeerScope) -> Iterator[Server]:
    """`imprint serve` with that checkpoint alone, all else as it comes."""
    settings = {"device": scope.device, "models": str(SIBLINGS), "backbones": checkpoint().card.name}
    with serving(settings) as server:
        yield server


def make_task(server: Server, draw: Draw) -> tuple[str, float]:
    """The path of a task with the learner that `auto` takes, and the seconds until the answer."""
    support = [{"label": label, "text": text} for text, label in draw.support]
    body = {"backbone": checkpoint().card.name, "support": support}
    started_s = time.perf_counter()
    made = server.asked("/v1/tasks", json=body)
    return f"/v1/tasks/{made['id']}", time.perf_counter() - started_s


def labels_of(server: Server, task: str, texts: Sequence[str]) -> list[str]:
    """What a task says of all texts, in one request."""
    answer = server.asked(f"{task}/predict", json={"inputs": list(texts), "top_k": 1})
    return [str(one["label"]) for one in answer["predictions"]]


def executor_of(server: Server) -> str:
    """What runs the network there: chosen by measurement at its start."""
    return server.executor(checkpoint().card.name)


def same_weights(scratch: Path) -> Path:
    """A folder with the network that our server runs."""
    return write_folder(checkpoint(), scratch / "same")


def published_weights(scratch: Path) -> Path:
    """A folder with the network as it was published, without our meta-training."""
    return write_folder(load(scan([bundled_models()])[PUBLISHED], adapted=False), scratch / "published")


@contextmanager
def waiting(python: Path, module: str, scratch: Path, *arguments: str) -> Iterator[Waiting]:
    """A module that waits for questions in a peer's interpreter. What it says besides is a log, for errors."""
    log = scratch / f"{module}.log"
    with Waiting(LAUNCH, str(python), str(log), module, *arguments) as one:
        try:
            yield one
        except RuntimeError as error:
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
            error.add_note("\n".join([f"The end of the log of {module}:", *lines[-LAST_LINES:]]))
            raise
