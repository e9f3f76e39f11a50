"""The directory asks the registry as seldom as it can, and never answers with what was before a change."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import final

import pytest
from sqlalchemy import event
from starlette.testclient import TestClient

from app.config import Settings
from app.main import create_app
from app.registry.errors import TaskNotFound
from app.registry.records import TaskRecord
from app.services.directory import Directory
from app.services.workers import Workers

HUNDRED = 100


@pytest.fixture
def directory(client: TestClient) -> Iterator[Directory]:
    """Of a server's registry, with nothing remembered."""
    workers = Workers(1)
    yield Directory(client.app.state.services.registry, workers)
    workers.close()


@pytest.fixture
def reads(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> "Reads":
    """What the registry is asked for."""
    seen = Reads(client.app.state.services.registry.task)
    monkeypatch.setattr(client.app.state.services.registry, "task", seen, raising=False)
    return seen


@final
class Reads:
    """Queries for tasks, which go on once the gate is open."""

    def __init__(self, real: Callable[[str], TaskRecord]) -> None:
        self.asked: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self._real = real

    def __call__(self, task_id: str) -> TaskRecord:
        """Read first, then wait: what is read is from before the gate opens."""
        found = self._real(task_id)
        self.asked.append(task_id)
        assert self.gate.wait(20)
        return found


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


def test_a_hundred_that_miss_at_once_cost_one_query(directory, reads, task):
    async def scene():
        return await asyncio.gather(*(directory.task(task["id"]) for _ in range(HUNDRED)))

    found = asyncio.run(scene())
    assert len({id(one) for one in found}) == 1
    assert reads.asked == [task["id"]]


def test_all_that_wait_get_the_error_and_the_next_asks_again(directory, client, monkeypatch):
    asked = []

    def none(task_id):
        asked.append(task_id)
        raise TaskNotFound(task_id)

    monkeypatch.setattr(client.app.state.services.registry, "task", none, raising=False)

    async def scene():
        return await asyncio.gather(*(directory.task("none") for _ in range(3)), return_exceptions=True)

    for times in (1, 2):
        assert all(isinstance(one, TaskNotFound) for one in asyncio.run(scene()))
        assert len(asked) == times


def test_one_that_leaves_does_not_take_the_read_from_the_others(directory, reads, task):
    async def scene():
        reads.gate.clear()
        first, second = (asyncio.ensure_future(directory.task(task["id"])) for _ in range(2))
        await until(lambda: reads.asked)
        first.cancel()
        await asyncio.wait({first})
        reads.gate.set()
        return await second

    assert asyncio.run(scene()).id == task["id"]
    assert len(reads.asked) == 1


def test_who_asks_after_a_change_does_not_get_what_was_read_before(directory, reads, task, client):
    registry = client.app.state.services.registry

    async def scene():
        reads.gate.clear()
        before = asyncio.ensure_future(directory.task(task["id"]))
        await until(lambda: reads.asked)
        # Not by the directory, which would remember the answer: so it has to read again.
        rename = partial(
            registry.rename_task, task["id"], "new", (await asyncio.to_thread(reads._real, task["id"])).revision
        )
        changed = await asyncio.to_thread(rename)
        directory._forget(task["id"])
        after = asyncio.ensure_future(directory.task(task["id"]))
        await until(lambda: len(reads.asked) == 2)
        reads.gate.set()
        return (await before).name, (await after).name, directory.known(task["id"]).name, changed.name

    assert asyncio.run(scene()) == (None, "new", "new", "new")


def test_the_first_prediction_of_a_task_takes_one_query_and_the_later_ones_none(small_client, vectors, tmp_path):
    body = {"backbone": "vector-identity", "learner": "protonet", "support": vectors()}
    with TestClient(create_app(Settings(data_dir=tmp_path, device="cpu", backbones="vector-identity"))) as before:
        task = before.post("/v1/tasks", json=body).json()["id"]
        query = {"inputs": vectors(seed=3)["b"]}
        wanted = before.post(f"/v1/tasks/{task}/predict", json=query).json()["predictions"]
    client, asked = small_client(), []
    database = client.app.state.services.registry._database.engine
    event.listen(database, "before_cursor_execute", lambda *call: asked.append(call[2]))
    for _ in range(2):
        found = client.post(f"/v1/tasks/{task}/predict", json=query).json()["predictions"]
        assert found == wanted
    assert len([one for one in asked if one.startswith("SELECT")]) == 1


def test_a_state_that_lies_in_a_blob_is_read_from_there(small_client, vectors, tmp_path, monkeypatch):
    for module in ("contents", "versions"):
        monkeypatch.setattr(f"app.registry.{module}.INLINE_STATE_BYTES", 10)
    body = {"backbone": "vector-identity", "learner": "protonet", "support": vectors()}
    with TestClient(create_app(Settings(data_dir=tmp_path, device="cpu", backbones="vector-identity"))) as before:
        task = before.post("/v1/tasks", json=body).json()["id"]
    client = small_client()
    assert client.app.state.services.registry.task_and_state(task)[1] is None
    found = client.post(f"/v1/tasks/{task}/predict", json={"inputs": vectors(seed=3)["b"]}).json()["predictions"]
    assert {one["label"] for one in found} == {"b"}
