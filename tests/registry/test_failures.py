"""Failures, each caused and not imagined: what is stored stays whole, and the error says what happened."""

import hashlib
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import event, text

from app.core.errors import StorageFull, Unavailable
from app.registry.errors import (
    BlobCorrupt,
    BlobMissing,
    DatabaseCorrupt,
    DatabaseDown,
    DatabaseLocked,
    DiskFull,
)
from app.registry.session import sqlite_driver

ROOT = Path(__file__).parents[2]

WRITER = """
import hashlib, itertools, struct, sys
from pathlib import Path
from app.registry.records import NewExample, NewTask, NewVersion
from app.registry.repository import Registry

folder = Path(sys.argv[1])
registry = Registry(f"sqlite:///{folder}/imprint.sqlite", folder)
registry.migrate()

def example(number, index):
    content = f"{number}/{index}".encode() * (20 if index % 2 else 5000)
    sha256 = hashlib.sha256(content).hexdigest()
    return NewExample(f"ex_{sha256[:24]}", "ab"[index % 2], sha256, "text/plain", len(content),
                      struct.pack("<f", index), content, False)

for number in itertools.count():
    examples = tuple(example(f"{sys.argv[2]}.{number}", index) for index in range(8))
    state = hashlib.sha256(sys.argv[2].encode()).digest() * (50_000 if number % 2 else 50)
    version = NewVersion("created", None, "b" * 64, "protonet", {}, ("a", "b"), 1, None,
                         {"state_sha256": hashlib.sha256(state).hexdigest()}, (), {}, state,
                         tuple(e.id for e in examples), examples)
    task = registry.create_task(NewTask(None, "vector-identity", "vector", "auto", {}, True), version)
    print(task.id, flush=True)
"""


def _kill_a_writer(folder, round_: int) -> set[str]:
    """Let a process write tasks, kill it in the middle of one; returns those that it had reported as stored."""
    command = [sys.executable, "-c", WRITER, str(folder), str(round_)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as writer:
        first = writer.stdout.readline()
        time.sleep(0.05 + 0.037 * round_)
        writer.send_signal(signal.SIGKILL)
        rest = writer.stdout.read()
    assert writer.returncode == -signal.SIGKILL
    return {line for line in (first + rest).splitlines(keepends=False) if len(line) == 30}


def _integrity(folder) -> str:
    connection = sqlite_driver().connect(folder / "imprint.sqlite")
    try:
        return connection.execute("PRAGMA integrity_check").fetchone()[0]
    finally:
        connection.close()


def test_after_a_writer_is_killed_every_listed_task_is_whole(tmp_path, open_registry):
    folder = tmp_path / "data"
    reported = set().union(*(_kill_a_writer(folder, round_) for round_ in range(3)))
    registry = open_registry()
    tasks = registry.tasks(limit=10_000).items
    assert len(reported) >= 3
    assert reported <= {task.id for task in tasks}
    for task in tasks:
        state = registry.load_state(task.id, 1)
        assert hashlib.sha256(state).hexdigest() == task.version.held_out["state_sha256"]
        assert len(registry.example_features(task.id, 1)) == task.version.example_count == 8
        for example in registry.examples(task.id, 1).items:
            assert len(registry.read_blob(example.input_blob)) == example.size_bytes
    registry.close()
    assert _integrity(folder) == "ok"


@pytest.fixture
def small_database(open_registry):
    """A registry whose database has room for some 20 pages more than its empty schema."""
    registry = open_registry()
    with registry._database.read() as session:
        pages = session.execute(text("PRAGMA page_count")).scalar_one()
    registry.close()
    small = open_registry(migrate=False)
    event.listen(
        small._database.engine,
        "connect",
        lambda connection, _: connection.execute(f"PRAGMA max_page_count={pages + 20}").fetchone(),
    )
    return small


def test_a_full_database_stores_nothing_of_the_task_and_serves_what_it_has(small_database, make):
    before = small_database.create_task(make.task("before"), make.version(*make.pair()))
    with pytest.raises(DiskFull) as caught:
        small_database.create_task(make.task("big"), make.version(*make.pair(), state=b"s" * 500_000))
    assert isinstance(caught.value, StorageFull)
    assert small_database.tasks().items == (before,)
    big = make.version(kept=make.pair(), state=b"s" * 500_000)
    with pytest.raises(DiskFull):
        small_database.add_version(before.id, big, before.revision)
    assert small_database.task(before.id) == before
    assert small_database.create_task(make.task("after"), make.version(*make.pair())).name == "after"


def test_a_full_disk_under_the_blobs_stores_nothing(registry, make, tmp_path, file_size_limit):
    big = [make.example(label, label.encode() * 200_000) for label in ("a", "b")]
    with file_size_limit(150_000):
        with pytest.raises(DiskFull):
            registry.create_task(make.task("inputs"), make.version(*big))
        with pytest.raises(DiskFull):
            registry.create_task(make.task("state"), make.version(*make.pair(), state=b"s" * 2_000_000))
    assert registry.tasks().items == ()
    assert not [path for path in (tmp_path / "data/blobs").rglob("*") if path.is_file()]
    assert registry.create_task(make.task("inputs"), make.version(*big)).name == "inputs"


def test_a_database_file_that_cannot_grow_keeps_what_it_has(registry, make, file_size_limit):
    before = registry.create_task(make.task(), make.version(*make.pair()))
    with file_size_limit(200_000), pytest.raises((DatabaseDown, DiskFull)):
        registry.create_task(make.task(), make.version(*make.pair(), state=b"s" * 900_000))
    assert registry.tasks().items == (before,)
    assert registry.load_state(before.id, 1) == b"state"


@pytest.fixture
def other_writer(tmp_path):
    """Another process's connection, which holds the write lock until it rolls back."""
    connection = sqlite_driver().connect(tmp_path / "data/imprint.sqlite", isolation_level=None)
    yield connection
    connection.close()


def test_a_locked_database_says_when_to_come_back_and_still_reads(open_registry, make, tmp_path, request):
    open_registry()
    registry = open_registry(busy_timeout_s=0.1)
    task = registry.create_task(make.task(), make.version(*make.pair()))
    other = request.getfixturevalue("other_writer")
    other.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    with pytest.raises(DatabaseLocked) as caught:
        registry.create_task(make.task(), make.version(*make.pair()))
    assert time.monotonic() - began < 2
    assert caught.value.retry_after_s > 0
    assert isinstance(caught.value, Unavailable)
    assert registry.task(task.id) == task
    registry.check()
    other.execute("ROLLBACK")
    assert registry.rename_task(task.id, "free again").name == "free again"


def test_a_writer_that_waits_for_another_of_its_process_gives_up_in_time(open_registry, make):
    registry = open_registry(busy_timeout_s=0.1)
    with (
        registry._database.write(),
        ThreadPoolExecutor(1) as pool,
        pytest.raises(DatabaseLocked),
    ):
        pool.submit(registry.create_task, make.task(), make.version(*make.pair())).result()


def test_a_blob_without_a_row_after_a_crash_is_harmless(registry, make, monkeypatch):
    content = b"large" * 10_000
    version = make.version(make.example("a", content), make.example("b", b"small"))

    def crash(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("app.registry.tasks.insert_task", crash)
        with pytest.raises(KeyboardInterrupt):
            registry.create_task(make.task("pets"), version)
    assert registry.tasks().items == ()
    assert registry.read_blob(hashlib.sha256(content).hexdigest()) == content
    assert registry.create_task(make.task("pets"), version).name == "pets"


def test_a_damaged_or_lost_state_is_a_clear_error(registry, make, tmp_path):
    state = b"s" * 2_000_000
    task = registry.create_task(make.task(), make.version(*make.pair(), state=state))
    sha256 = hashlib.sha256(state).hexdigest()
    path = tmp_path / "data/blobs" / sha256[:2] / sha256
    path.write_bytes(b"t" + state[1:])
    with pytest.raises(BlobCorrupt, match=sha256[:12]):
        registry.load_state(task.id, 1)
    path.unlink()
    with pytest.raises(BlobMissing, match="backup"):
        registry.load_state(task.id, 1)


def test_a_damaged_small_input_is_a_clear_error(registry, make):
    task = registry.create_task(make.task(), make.version(*make.pair()))
    with registry._database.write() as session:
        session.execute(text("UPDATE small_blobs SET content = x'00'"))
    for example in registry.examples(task.id, 1).items:
        with pytest.raises(BlobCorrupt):
            registry.read_blob(example.input_blob)


def test_a_file_that_is_no_database_is_a_clear_error(open_registry, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/imprint.sqlite").write_bytes(b"not a database, but long enough to be looked at" * 100)
    with pytest.raises(DatabaseCorrupt, match="backup"):
        open_registry()


def test_check_fails_where_the_schema_or_the_folder_is_missing(open_registry, tmp_path):
    with pytest.raises(Unavailable):
        open_registry(migrate=False).check()
    registry = open_registry(folder="other")
    registry.check()
    shutil.rmtree(tmp_path / "other")
    with pytest.raises(Unavailable):
        registry.check()


def test_no_error_shows_sql_or_a_path(open_registry, tmp_path):
    with pytest.raises(DatabaseDown) as caught:
        open_registry(migrate=False).tasks()
    assert "SELECT" not in caught.value.detail
    assert str(tmp_path) not in caught.value.detail
