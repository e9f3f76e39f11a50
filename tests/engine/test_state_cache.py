"""Pins that hold, bytes that stay under the budget."""

import asyncio
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.episode import TaskState
from app.core.errors import NotFound
from app.engine.state_cache import StateCache

CPU = torch.device("cpu")


def state_of(floats: int) -> Callable[[], TaskState]:
    return lambda: {"w": torch.zeros(floats)}


def never() -> TaskState:
    raise AssertionError("it is in the cache")


async def use(cache: StateCache, key: str, floats: int = 10) -> None:
    async with cache.pinned(key, state_of(floats)):
        pass


def test_the_one_used_longest_ago_goes_first(play) -> None:
    cache = StateCache(80)

    async def scene() -> None:
        for key in ("a", "b", "a", "c"):
            await use(cache, key)

    play(scene())
    assert [key in cache for key in "abc"] == [True, False, True]
    assert cache.size_bytes == 80
    assert len(cache) == 2


def test_a_pinned_state_is_not_evicted_and_what_does_not_fit_is_served_all_the_same(play) -> None:
    cache = StateCache(80)

    async def scene() -> None:
        async with cache.pinned("a", state_of(10)), cache.pinned("b", state_of(10)):
            async with cache.pinned("c", state_of(10)) as third:
                assert third.state(CPU)["w"].shape == (10,)
            assert "c" not in cache
            assert cache.size_bytes == 80
        await use(cache, "c")
        assert [key in cache for key in "abc"] == [False, True, True]

    play(scene())


def test_a_state_larger_than_the_budget_evicts_nobody(play) -> None:
    cache = StateCache(80)

    async def scene() -> None:
        await use(cache, "a")
        await use(cache, "large", 100)

    play(scene())
    assert "a" in cache
    assert "large" not in cache


def test_a_discarded_state_is_freed_after_its_last_user(play) -> None:
    cache = StateCache(1000)

    async def scene() -> None:
        async with cache.pinned("a", state_of(10)) as old:
            cache.discard("a")
            assert "a" not in cache
            assert cache.size_bytes == 40
            async with cache.pinned("a", state_of(20)) as new:
                assert new.state(CPU)["w"].shape == (20,)
                assert old.state(CPU)["w"].shape == (10,)
                assert cache.size_bytes == 120
        assert cache.size_bytes == 80
        cache.discard("a")
        cache.discard("a")
        assert cache.size_bytes == 0

    play(scene())


def test_a_state_is_not_given_out_after_its_pin(play) -> None:
    cache = StateCache(1000)

    async def scene() -> None:
        async with cache.pinned("a", state_of(1)) as entry:
            pass
        with pytest.raises(RuntimeError, match="not pinned"):
            entry.state(CPU)

    play(scene())


def test_every_event_is_observed_with_the_bytes_held(bench, play) -> None:
    recorder = bench().recorder
    cache = StateCache(80, recorder)

    async def scene() -> None:
        for key, floats in (("a", 10), ("a", 10), ("b", 20), ("c", 100)):
            await use(cache, key, floats)
        cache.discard("b")

    play(scene())
    assert [event for event, _ in recorder.cache] == [
        "miss",
        "load",
        "hit",
        "miss",
        "evict",
        "load",
        "miss",
        "uncached",
        "discard",
    ]
    assert max(size_bytes for _, size_bytes in recorder.cache) <= 80


@pytest.mark.parametrize(("kind", "held"), [("cpu", 40 + 4), ("cuda", 1024)])
def test_bytes_are_counted_as_the_device_gives_them_out(play, kind, held) -> None:
    cache = StateCache(2000, kind=kind)

    async def scene() -> None:
        async with cache.pinned("a", lambda: {"w": torch.zeros(10), "b": torch.zeros(1)}):
            assert cache.size_bytes == held

    play(scene())
    assert cache.size_bytes == held


kinds = st.sampled_from(["enter", "leave", "discard", "fail"])
steps = st.lists(st.tuples(kinds, st.integers(0, 5), st.integers(0, 30)), max_size=40)


@settings(deadline=None, max_examples=60)
@given(steps, st.integers(0, 200))
def test_the_bytes_are_never_over_the_budget(history: list[tuple[str, int, int]], budget_bytes: int) -> None:
    cache = StateCache(budget_bytes)

    def broken() -> TaskState:
        raise NotFound("gone")

    async def scene() -> None:
        pins = []
        for step, key, floats in history:
            if step == "enter":
                pin = cache.pinned(key, state_of(floats))
                await pin.__aenter__()
                pins.append(pin)
                assert "w" in pin.state(CPU)
            elif step == "leave" and pins:
                await pins.pop(floats % len(pins)).__aexit__(None, None, None)
            elif step == "discard":
                cache.discard(key)
            elif step == "fail":
                try:
                    async with cache.pinned(key, broken):
                        assert key in cache or pins, "nothing else than a kept or pinned state spares the load"
                except NotFound:
                    assert key not in cache
            assert 0 <= cache.size_bytes <= budget_bytes
        for pin in pins:
            await pin.__aexit__(None, None, None)
        kept = [key for key in range(6) if key in cache]
        for key in kept:
            cache.discard(key)
        assert cache.size_bytes == 0
        assert len(cache) == 0

    asyncio.run(scene())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_state_moves_to_the_device_once(play) -> None:
    cache = StateCache(1000)
    device = torch.device("cuda", torch.cuda.current_device())

    async def scene() -> None:
        async with cache.pinned("a", state_of(10)) as entry:
            assert entry.state(device)["w"].device == device
            assert entry.state(device)["w"] is entry.state(device)["w"]

    play(scene())
    assert cache.size_bytes == 40
