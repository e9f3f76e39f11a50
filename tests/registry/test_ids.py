"""Ids and cursors."""

from concurrent.futures import ThreadPoolExecutor

from hypothesis import given, settings
from hypothesis import strategies as st

from app.registry.ids import IdMaker
from app.registry.paging import decode_cursor, encode_cursor


def test_an_id_has_its_prefix_and_26_characters():
    prefix, _, rest = IdMaker().new("tsk").partition("_")
    assert prefix == "tsk"
    assert len(rest) == 26
    assert rest == rest.lower()


def test_ids_grow_in_the_order_of_making_also_within_one_millisecond():
    maker = IdMaker(lambda: 1_000)
    ids = [maker.new("tsk") for _ in range(1000)]
    assert ids == sorted(set(ids))


def test_ids_grow_when_the_clock_steps_back():
    times = iter([5_000, 4_000, 3_000, 6_000])
    maker = IdMaker(lambda: next(times))
    ids = [maker.new("tsk") for _ in range(4)]
    assert ids == sorted(set(ids))


def test_ids_of_a_later_process_come_after():
    assert IdMaker(lambda: 1_000).new("tsk") < IdMaker(lambda: 1_001).new("tsk")


def test_threads_never_get_the_same_id():
    maker = IdMaker(lambda: 1_000)
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda _: maker.new("tsk"), range(2000)))
    assert len(set(ids)) == 2000


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
def test_a_cursor_gives_its_key_back(key):
    assert decode_cursor("tasks", encode_cursor("tasks", key)) == key
