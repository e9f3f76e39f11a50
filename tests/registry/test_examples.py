"""A version's examples: a set."""

import itertools

import pytest

from app.registry.errors import VersionNotFound


def test_features_come_sorted_by_content_and_label_whatever_the_order_of_arrival(registry, make):
    examples = [make.example(label, content) for label in ("cat", "dog") for content in (b"1", b"2", b"3")]
    found = []
    for order in itertools.islice(itertools.permutations(examples), 0, 720, 97):
        task = registry.create_task(make.task(), make.version(*order))
        found.append(registry.example_features(task.id, 1))
    keys = [(example.content_sha256, example.label) for example in found[0]]
    assert keys == sorted(keys)
    assert len(keys) == 6
    assert all(other == found[0] for other in found)


def test_the_same_set_reached_by_updates_gives_the_same_features(registry, make):
    cat, dog = make.pair()
    bird = make.example("bird", b"tweet")
    at_once = registry.create_task(make.task(), make.version(bird, dog, cat))
    grown = registry.create_task(make.task(), make.version(cat, dog))
    registry.add_version(grown.id, make.version(bird, kept=(cat, dog)), 1)
    registry.add_version(grown.id, make.version(kept=(cat, dog)), 2)
    registry.add_version(grown.id, make.version(bird, kept=(cat, dog)), 3)
    assert registry.example_features(grown.id, 4) == registry.example_features(at_once.id, 1)
    assert registry.example_features(grown.id, 3) == registry.example_features(grown.id, 1)


def test_an_example_named_twice_counts_once(registry, make):
    cat, dog = make.pair()
    task = registry.create_task(make.task(), make.version(cat, dog, cat))
    assert task.version.shots == {"cat": 1, "dog": 1}


def test_one_content_under_two_labels_is_two_examples(registry, make):
    task = registry.create_task(make.task(), make.version(make.example("a", b"same"), make.example("b", b"same")))
    assert [example.label for example in registry.example_features(task.id, 1)] == ["a", "b"]
    assert len(registry.examples(task.id, 1).items) == 2


def test_stored_inputs_read_back_whether_small_or_large(registry, make):
    contents = {b"short", b"x" * 16_384, b"y" * 16_385, b"m" * 49_152, b"n" * 49_153, b"z" * 2_000_000}
    examples = [make.example(label, content) for label in "ab" for content in sorted(contents)]
    task = registry.create_task(make.task(), make.version(*examples))
    stored = registry.examples(task.id, 1, limit=100).items
    assert {registry.read_blob(example.input_blob) for example in stored} == contents
    assert all(example.size_bytes == len(registry.read_blob(example.input_blob)) for example in stored)


def test_small_photographs_of_a_small_set_are_rows_and_those_of_a_large_one_are_files(registry, make, tmp_path):
    def stored(shot: int) -> tuple[set[bytes], int]:
        contents = [bytes([shot, number]) * 15_000 for number in range(2 * shot)]
        examples = [make.example("ab"[at % 2], content) for at, content in enumerate(contents)]
        before = len(_files(tmp_path))
        task = registry.create_task(make.task(), make.version(*examples))
        blobs = [one.input_blob for one in registry.examples(task.id, 1, limit=200).items]
        assert set(registry.read_blobs(blobs).values()) == set(contents)
        return {registry.read_blob(one) for one in blobs} ^ set(contents), len(_files(tmp_path)) - before

    assert stored(12) == (set(), 0)
    assert stored(80) == (set(), 160)


def _files(tmp_path):
    return [path for path in (tmp_path / "data/blobs").rglob("*") if path.is_file()]


def test_an_input_that_is_not_to_be_stored_is_not(registry, make, tmp_path):
    secret = b"a secret sentence" * 5000
    examples = [make.example(label, secret, store=False) for label in ("a", "b")]
    task = registry.create_task(make.task(), make.version(*examples))
    assert [example.input_blob for example in registry.examples(task.id, 1).items] == [None, None]
    registry.close()
    assert not any(b"a secret" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_a_content_under_a_wrong_hash_is_refused_and_not_stored(registry, make):
    cat, dog = make.pair()
    for content in (b"small", b"L" * 50_000):
        liar = type(cat)(**{**vars(cat), "content": content})
        with pytest.raises(ValueError, match="hash"):
            registry.create_task(make.task(), make.version(liar, dog))
    assert registry.tasks().items == ()


def test_pages_of_examples_hold_each_member_once_and_filter_by_label(registry, make):
    examples = [make.example(label, f"{label}{n}".encode()) for label in ("cat", "dog") for n in range(6)]
    task = registry.create_task(make.task(), make.version(*examples))
    seen, cursor = [], None
    while True:
        page = registry.examples(task.id, 1, cursor, limit=5)
        seen += [example.id for example in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == sorted(example.id for example in examples)
    cats = registry.examples(task.id, 1, limit=100, label="cat").items
    assert {example.label for example in cats} == {"cat"}
    assert len(cats) == 6
    assert registry.examples(task.id, 1, label="bird").items == ()


def test_examples_of_a_version_that_is_not_there_are_not_found(registry, make):
    task = registry.create_task(make.task(), make.version(*make.pair()))
    for call in (
        lambda: registry.examples(task.id, 2),
        lambda: registry.example_features(task.id, 2),
        lambda: registry.version(task.id, 2),
        lambda: registry.load_state(task.id, 2),
    ):
        with pytest.raises(VersionNotFound, match="2"):
            call()


def test_examples_belong_to_one_task(registry, make):
    pair = make.pair()
    registry.create_task(make.task(), make.version(*pair))
    with pytest.raises(ValueError, match="not stored"):
        registry.create_task(make.task(), make.version(kept=pair))
