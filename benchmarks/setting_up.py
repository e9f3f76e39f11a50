"""Servers and tasks as the rows of the engine's benchmark need them."""

from collections.abc import Sequence
from typing import Final

from benchmarks.bodies import (
    JPEG,
    JSON,
    MULTIPART,
    multipart,
    photographs,
    predict_json,
    sentences,
    shared_out,
    vectors,
)
from benchmarks.generator import Generator
from benchmarks.plan import Outcome, Plan, Stream
from benchmarks.rounds import Scope
from benchmarks.served import Server

PHOTO: Final = "photo-efficientnet-lite0"
TEXT: Final = "text-minilm"
VECTOR: Final = "vector-identity"
GLYPH: Final = "glyph-conv4-protonet"
LEARNER: Final = "protonet"
WAY: Final = 5
SHOT: Final = 5
DIM: Final = 64
ZIPF: Final = 1.1
SUPPORT_SEED: Final = 1
QUERY_SEED: Final = 2


REMEMBERS: Final = "engine__embedding_cache_bytes"


def settings(scope: Scope, *backbones: str) -> dict[str, str]:
    """Of a server with these backbones that remembers no embedding of an example; all else as it comes."""
    return {"device": scope.device, "backbones": ",".join(backbones), REMEMBERS: "0"}


def zipf(count: int) -> list[float]:
    """How often each of `count` tasks is asked, the first one most: 1 / rank^1.1."""
    return [1 / rank**ZIPF for rank in range(1, count + 1)]


def photo_task(server: Server, seed: int = SUPPORT_SEED, learner: str = LEARNER) -> str:
    """A task of five labels with five photographs each; gives its id."""
    body = multipart(shared_out(photographs(WAY * SHOT, seed), WAY), JPEG)
    query = {"backbone": PHOTO, "learner": learner}
    return str(server.asked("/v1/tasks", params=query, content=body, headers={"Content-Type": MULTIPART})["id"])


def text_task(server: Server) -> str:
    """A task of five labels with five texts each; gives its id."""
    texts = sentences(WAY * SHOT, SUPPORT_SEED)
    support = {f"label {label}": [{"text": text} for text in texts[label::WAY]] for label in range(WAY)}
    return str(server.asked("/v1/tasks", json={"backbone": TEXT, "learner": LEARNER, "support": support})["id"])


def vector_support(seed: int, shot: int = SHOT) -> dict[str, object]:
    """The body of a task of five labels with vectors of 64 numbers."""
    rows = vectors(WAY * shot, DIM, seed)
    support = {f"label {label}": rows[label::WAY] for label in range(WAY)}
    return {"backbone": VECTOR, "learner": LEARNER, "support": support}


def vector_task(server: Server) -> str:
    """A task of five labels with five vectors each; gives its id."""
    return str(server.asked("/v1/tasks", json=vector_support(SUPPORT_SEED))["id"])


def predict_path(task: str) -> str:
    """Where a task is asked."""
    return f"/v1/tasks/{task}/predict"


def photo_bodies(count: int, seed: int = QUERY_SEED) -> tuple[str, list[bytes]]:
    """The media type, and bodies of predictions."""
    return JPEG, photographs(count, seed)


def text_bodies(count: int, seed: int = QUERY_SEED) -> tuple[str, list[bytes]]:
    """The media type, and bodies of predictions."""
    return JSON, [predict_json(text) for text in sentences(count, seed)]


def vector_bodies(count: int, seed: int = QUERY_SEED) -> tuple[str, list[bytes]]:
    """The media type, and bodies of predictions."""
    return JSON, [predict_json(vector) for vector in vectors(count, DIM, seed)]


def under_load(
    generator: Generator,
    server: Server,
    scope: Scope,
    content_type: str,
    tasks: Sequence[str],
    weights: Sequence[float] | None = None,
    seed: int = 0,
) -> Outcome:
    """A closed loop of the scope's clients. Raises: `RuntimeError` where an answer is no success."""
    stream = Stream([predict_path(task) for task in tasks], weights, clients=scope.clients)
    outcome = generator.run(Plan(server.port, content_type, [stream], scope.seconds, warm_s=0.5, seed=seed))
    if outcome.failed:
        raise RuntimeError(f"{outcome.failed} of {outcome.finished} predictions failed: {dict(outcome.streams)}")
    return outcome
