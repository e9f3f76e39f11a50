"""Keyset pages and filters of lists."""

import pytest

from app.registry.errors import BadCursor


def _create(registry, make, name=None, **fields):
    return registry.create_task(make.task(name), make.version(*make.pair(), **fields))


def _labelled(registry, make, name, labels):
    examples = [make.example(label, f"{name} {label}".encode()) for label in labels]
    return registry.create_task(make.task(name), make.version(*examples))


def test_tasks_are_found_by_a_label_of_their_active_version(registry, make):
    first = _labelled(registry, make, "one", ["cat", "dog"])
    second = _labelled(registry, make, "two", ["cat", "🐦"])
    assert [task.id for task in registry.tasks(label="cat").items] == [second.id, first.id]
    assert [task.id for task in registry.tasks(label="🐦").items] == [second.id]
    assert registry.tasks(label="CAT").items == ()
    page = registry.tasks(label="cat", limit=1)
    assert [task.id for task in registry.tasks(page.next_cursor, 1, label="cat").items] == [first.id]


def test_a_task_is_found_by_its_name(registry, make):
    task = _create(registry, make, "pets")
    _create(registry, make, "pets 2")
    assert [found.id for found in registry.tasks(name="pets").items] == [task.id]


def test_pages_of_tasks_are_stable_while_tasks_come_and_go(registry, make):
    ids = [_create(registry, make).id for _ in range(7)]
    page = registry.tasks(limit=3)
    seen = [task.id for task in page.items]
    while page.next_cursor is not None:
        _create(registry, make)
        registry.delete_task(page.items[-1].id)
        page = registry.tasks(page.next_cursor, limit=3)
        seen += [task.id for task in page.items]
    assert seen == ids[::-1]


def test_the_last_page_has_no_cursor(registry, make):
    for _ in range(4):
        _create(registry, make)
    assert registry.tasks(limit=4).next_cursor is None
    assert registry.tasks(registry.tasks(limit=2).next_cursor, limit=2).next_cursor is None


def test_pages_of_versions_run_to_the_first(registry, make):
    pair = make.pair()
    task = registry.create_task(make.task(), make.version(*pair))
    for revision in range(1, 12):
        registry.add_version(task.id, make.version(kept=pair), revision)
    page = registry.versions(task.id, limit=5)
    numbers = [version.number for version in page.items]
    while page.next_cursor is not None:
        page = registry.versions(task.id, page.next_cursor, limit=5)
        numbers += [version.number for version in page.items]
    assert numbers == list(range(12, 0, -1))


@pytest.mark.parametrize("cursor", ["", "x", "é", "!!!!", "dGFza3M6", "AAAA", "a" * 5000])
def test_a_cursor_that_was_not_given_out_is_refused(registry, make, cursor):
    task = _create(registry, make)
    for call in (
        lambda: registry.tasks(cursor),
        lambda: registry.versions(task.id, cursor),
        lambda: registry.examples(task.id, 1, cursor),
        lambda: registry.predictions(task.id, cursor),
    ):
        with pytest.raises(BadCursor):
            call()


def test_a_cursor_of_another_list_is_refused(registry, make):
    task = _create(registry, make)
    _create(registry, make)
    cursor = registry.tasks(limit=1).next_cursor
    with pytest.raises(BadCursor):
        registry.versions(task.id, cursor)
