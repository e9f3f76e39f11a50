"""Tasks and versions as services use them."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import event

from app.registry.errors import (
    NameTaken,
    RevisionConflict,
    TaskDeleted,
    TaskNotFound,
    VersionNotFound,
)


def _create(registry, make, name=None, **fields):
    return registry.create_task(make.task(name), make.version(*make.pair(), **fields))


@pytest.fixture
def statements(registry):
    """The SQL that runs, without the transactions around it."""
    seen: list[str] = []

    def note(connection, cursor, statement, parameters, context, executemany):
        if not statement.startswith("BEGIN"):
            seen.append(statement)

    event.listen(registry._database.engine, "before_cursor_execute", note)
    return seen


def test_a_created_task_reads_back_as_it_was_stored(registry, make, clock):
    version = make.version(
        make.example("ä", b"1"),
        make.example("z", b"2"),
        make.example("z", b"3"),
        selection={"chosen": "protonet", "scores": {}},
        held_out={"accuracy": 0.5},
        adaptation={"support_losses": [1.5, 0.25]},
        warnings=({"code": "one-shot", "detail": "one example of ä"},),
        labels=("z", "ä"),
    )
    task = make.task("letters", learner_settings_requested={"temperature": 2.0}, store_inputs=False)
    created = registry.create_task(task, version)
    read = registry.task(created.id)
    assert read == created
    assert (read.name, read.backbone, read.store_inputs) == ("letters", "vector-identity", False)
    assert read.learner_settings_requested == {"temperature": 2.0}
    assert read.created_at == read.updated_at == clock.now
    assert read.created_at.tzinfo is not None
    assert read.etag == '"1.1"'
    assert read.version.labels == ("z", "ä")
    assert read.version.shots == {"z": 2, "ä": 1}
    assert read.version.example_count == 3
    assert read.version.warnings == version.warnings
    assert read.version.selection == version.selection
    assert read.version.held_out == {"accuracy": 0.5}
    assert read.version.adaptation == {"support_losses": [1.5, 0.25]}
    assert registry.load_state(read.id, 1) == b"state"


def test_a_task_is_stored_in_six_statements_whatever_the_number_of_its_examples(registry, make, statements):
    counts = []
    for shot in (1, 40):
        statements.clear()
        examples = [make.example(label, f"{label}{number}".encode()) for label in "ab" for number in range(shot)]
        registry.create_task(make.task(), make.version(*examples))
        counts.append(len(statements))
    assert counts == [6, 6]


def test_reading_a_task_takes_at_most_two_statements_and_its_state_one(registry, make, statements):
    task = _create(registry, make)
    statements.clear()
    registry.task(task.id)
    assert len(statements) <= 2
    statements.clear()
    registry.load_state(task.id, 1)
    assert len(statements) == 1


def test_a_page_of_tasks_takes_one_statement(registry, make, statements):
    for _ in range(5):
        _create(registry, make)
    statements.clear()
    assert len(registry.tasks(limit=3).items) == 3
    assert len(statements) == 1


def test_an_unknown_task_is_not_found_by_every_call(registry, make):
    version = make.version(*make.pair())
    calls = [
        lambda: registry.task("tsk_x"),
        lambda: registry.rename_task("tsk_x", "name"),
        lambda: registry.delete_task("tsk_x"),
        lambda: registry.add_version("tsk_x", version, 1),
        lambda: registry.activate("tsk_x", 1),
        lambda: registry.versions("tsk_x"),
        lambda: registry.version("tsk_x", 1),
        lambda: registry.load_state("tsk_x", 1),
        lambda: registry.examples("tsk_x", 1),
        lambda: registry.example_features("tsk_x", 1),
        lambda: registry.predictions("tsk_x"),
    ]
    for call in calls:
        with pytest.raises(TaskNotFound, match="tsk_x"):
            call()


def test_a_deleted_task_is_gone_for_every_call_and_frees_its_name(registry, make):
    task = _create(registry, make, "pets")
    registry.delete_task(task.id, expected_revision=1)
    calls = [
        lambda: registry.task(task.id),
        lambda: registry.rename_task(task.id, "name"),
        lambda: registry.delete_task(task.id),
        lambda: registry.add_version(task.id, make.version(*make.pair()), 1),
        lambda: registry.activate(task.id, 1),
        lambda: registry.versions(task.id),
        lambda: registry.version(task.id, 1),
        lambda: registry.load_state(task.id, 1),
        lambda: registry.examples(task.id, 1),
        lambda: registry.example_features(task.id, 1),
        lambda: registry.predictions(task.id),
    ]
    for call in calls:
        with pytest.raises(TaskDeleted):
            call()
    assert registry.tasks().items == ()
    assert registry.tasks(label="cat").items == ()
    assert _create(registry, make, "pets").name == "pets"


def test_two_live_tasks_cannot_share_a_name(registry, make):
    _create(registry, make, "pets")
    other = _create(registry, make, "animals")
    _create(registry, make)
    _create(registry, make)
    with pytest.raises(NameTaken, match="pets") as caught:
        _create(registry, make, "pets")
    assert caught.value.faults[0].pointer == "/name"
    with pytest.raises(NameTaken):
        registry.rename_task(other.id, "pets")
    assert registry.rename_task(other.id, "animals").name == "animals"


def test_renaming_bumps_the_revision_and_keeps_the_version(registry, make, clock):
    task = _create(registry, make, "pets")
    clock.pass_time(seconds=5)
    renamed = registry.rename_task(task.id, None, expected_revision=1)
    assert (renamed.name, renamed.revision, renamed.active_version) == (None, 2, 1)
    assert renamed.updated_at == clock.now != renamed.created_at
    with pytest.raises(RevisionConflict):
        registry.rename_task(task.id, "late", expected_revision=1)
    with pytest.raises(RevisionConflict):
        registry.delete_task(task.id, expected_revision=1)


def test_a_new_version_becomes_active_and_the_old_one_stays(registry, make):
    cat, dog = make.pair()
    task = registry.create_task(make.task(), make.version(cat, dog))
    bird = make.example("bird", b"tweet")
    grown = make.version(bird, kept=(cat, dog), change="examples-added", parent=1, state=b"grown")
    updated = registry.add_version(task.id, grown, expected_revision=1)
    assert (updated.active_version, updated.revision, updated.etag) == (2, 2, '"2.2"')
    assert updated.version.labels == ("bird", "cat", "dog")
    assert registry.task(task.id) == updated
    assert registry.load_state(task.id, 1) == b"state"
    assert registry.load_state(task.id, 2) == b"grown"
    assert [version.number for version in registry.versions(task.id).items] == [2, 1]
    assert registry.version(task.id, 2).parent == 1


def test_activating_an_older_version_rolls_back(registry, make):
    cat, dog = make.pair()
    task = registry.create_task(make.task(), make.version(cat, dog))
    registry.add_version(task.id, make.version(make.example("bird", b"tweet"), kept=(cat, dog)), 1)
    back = registry.activate(task.id, 1, expected_revision=2)
    assert (back.active_version, back.revision) == (1, 3)
    assert back.version.labels == ("cat", "dog")
    assert registry.tasks(label="bird").items == ()
    registry.activate(task.id, 2)
    assert [found.id for found in registry.tasks(label="bird").items] == [task.id]
    with pytest.raises(VersionNotFound, match="7"):
        registry.activate(task.id, 7)
    with pytest.raises(RevisionConflict):
        registry.activate(task.id, 1, expected_revision=2)


def test_the_version_after_a_rollback_takes_a_fresh_number(registry, make):
    pair = make.pair()
    task = registry.create_task(make.task(), make.version(*pair))
    registry.add_version(task.id, make.version(kept=pair), 1)
    registry.activate(task.id, 1)
    assert registry.add_version(task.id, make.version(kept=pair, parent=1), 3).active_version == 3


def test_of_concurrent_updates_with_one_expected_revision_exactly_one_wins(registry, make):
    pair = make.pair()
    task = registry.create_task(make.task(), make.version(*pair))
    barrier = threading.Barrier(8)

    def update(number: int) -> bool:
        version = make.version(make.example("cat", f"cat {number}".encode()), kept=pair)
        barrier.wait()
        try:
            registry.add_version(task.id, version, expected_revision=1)
        except RevisionConflict:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(update, range(8)))
    assert sum(won) == 1
    assert registry.task(task.id).version.example_count == 3
    assert len(registry.versions(task.id).items) == 2


def test_a_version_that_contradicts_itself_is_refused_and_not_stored(registry, make):
    cat, dog = make.pair()
    stranger = make.example("cat", b"never stored")
    for version in (
        make.version(cat, dog, labels=("cat",)),
        make.version(cat, dog, labels=("dog", "cat")),
        make.version(cat, dog, labels=("bird", "cat", "dog")),
        make.version(cat, dog, kept=(stranger,)),
        make.version(),
    ):
        with pytest.raises(ValueError, match="label"):
            registry.create_task(make.task(), version)
    assert registry.tasks().items == ()


def test_a_reopened_registry_serves_the_same(open_registry, make):
    first = open_registry()
    task = _create(first, make, "pets", state=b"s" * 3_000_000)
    first.close()
    second = open_registry()
    assert second.task(task.id) == task
    assert second.load_state(task.id, 1) == b"s" * 3_000_000


def test_readers_and_writers_of_many_threads_do_not_disturb_one_another(registry, make):
    def work(number: int) -> bool:
        task = _create(registry, make, f"task {number}")
        registry.tasks(limit=5)
        return registry.task(task.id) == task

    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(work, range(36)))
    assert len(registry.tasks(limit=200).items) == 36


def test_check_passes_on_a_healthy_registry(registry):
    registry.check()
