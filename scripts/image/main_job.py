"""The main job against a running server, over HTTP: make classifiers, predict, and after a restart predict the same."""

import time
from dataclasses import dataclass
from typing import Any

import httpx

from app.demo.samples import Sample, digits, tickets
from scripts.image.engine import Engine, EngineError, say

START_TIMEOUT_S = 180.0
LEAST_ACCURACY = 0.6


@dataclass(frozen=True)
class Answers:
    """A task that was made, what was asked, and what came back."""

    task: str
    inputs: list[Any]
    predictions: list[Any]


def wait_until_ready(url: str, engine: Engine) -> None:
    """Wait for /readyz. Raises `EngineError` with the server's log when it ends or takes too long."""
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        try:
            if httpx.get(f"{url}/readyz", timeout=5.0, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        if not engine.is_running():
            break
        time.sleep(0.2)
    raise EngineError(f"the server did not become ready:\n{engine.logs()}")


def do_main_job(url: str) -> list[Answers]:
    """Images, texts and vectors: a classifier of each, and its answers to examples that it has not seen."""
    done = []
    with httpx.Client(base_url=url, timeout=300.0, trust_env=False) as client:
        for sample in (digits(), tickets(), corners()):
            body = {"backbone": sample.backbone, "support": sample.support}
            task = _checked(client.post("/v1/tasks", json=body))
            answers = Answers(task["id"], sample.queries, _predict(client, task["id"], sample.queries))
            right = sum(one["label"] == answer for one, answer in zip(answers.predictions, sample.answers, strict=True))
            accuracy = right / len(sample.answers)
            say(f"{sample.title}: learner {task['learner']}, accuracy {accuracy:.1%} of {len(sample.answers)}")
            if accuracy < LEAST_ACCURACY:
                raise EngineError(f"{sample.title}: {accuracy:.1%} is under {LEAST_ACCURACY:.0%}")
            done.append(answers)
    return done


def repeat_predictions(url: str, before: list[Answers]) -> None:
    """Ask the same again. Raises `EngineError` unless every answer is the same to the last digit."""
    with httpx.Client(base_url=url, timeout=300.0, trust_env=False) as client:
        for answers in before:
            if _predict(client, answers.task, answers.inputs) != answers.predictions:
                raise EngineError(f"task {answers.task} answers otherwise after the restart")
    say(f"after the restart {len(before)} tasks answer {sum(len(one.inputs) for one in before)} inputs identically")


def corners() -> Sample:
    """Two far corners of a plane, as vectors."""
    support: dict[str, list[dict[str, object]]] = {
        "low": [{"vector": [0.0, 0.1]}, {"vector": [0.1, 0.0]}],
        "high": [{"vector": [1.0, 0.9]}, {"vector": [0.9, 1.0]}],
    }
    queries: list[dict[str, object]] = [{"vector": [0.05, 0.05]}, {"vector": [0.95, 0.95]}]
    return Sample(
        "corners of a plane (2 labels, 2 vectors each)", "vector-identity", support, queries, ["low", "high"], []
    )


def _predict(client: httpx.Client, task: str, inputs: list[Any]) -> list[Any]:
    found: list[Any] = _checked(client.post(f"/v1/tasks/{task}/predict", json={"inputs": inputs}))["predictions"]
    return found


def _checked(response: httpx.Response) -> Any:
    if response.is_error:
        raise EngineError(f"{response.request.method} {response.request.url}: {response.status_code} {response.text}")
    return response.json()
