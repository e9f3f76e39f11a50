"""One load for all that wait."""

import asyncio
from collections.abc import Callable
from threading import Event

import torch

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


def test_a_hundred_concurrent_misses_load_once(play) -> None:
    cache = StateCache(1000)
    gate, loads = Event(), []

    def load() -> TaskState:
        gate.wait(20)
        loads.append(1)
        return {"w": torch.arange(3.0)}

    async def reader() -> float:
        async with cache.pinned("t", load) as entry:
            assert entry.load_s > 0
            return float(entry.state(CPU)["w"].sum())

    async def scene() -> None:
        readers = [asyncio.create_task(reader()) for _ in range(100)]
        await asyncio.sleep(0)
        gate.set()
        assert await asyncio.gather(*readers) == [3.0] * 100

    play(scene())
    assert len(loads) == 1
    assert cache.size_bytes == 12


def test_a_hit_loads_nothing_and_waits_for_nothing(play) -> None:
    cache = StateCache(1000)

    async def scene() -> None:
        await use(cache, "t")
        async with cache.pinned("t", never) as entry:
            assert entry.load_s == 0
            assert entry.state(CPU)["w"] is entry.state(CPU)["w"]

    play(scene())


def test_a_failed_load_fails_its_waiters_and_is_forgotten(play) -> None:
    cache = StateCache(1000)
    loads = []

    def load() -> TaskState:
        loads.append(1)
        raise NotFound("no such version")

    async def scene() -> None:
        readers = [use_with(load) for _ in range(5)]
        assert [type(one) for one in await asyncio.gather(*readers, return_exceptions=True)] == [NotFound] * 5
        assert len(loads) == 1
        await use(cache, "t")
        assert "t" in cache

    async def use_with(load: Callable[[], TaskState]) -> None:
        async with cache.pinned("t", load):
            pass

    play(scene())


def test_a_cancelled_waiter_leaves_the_load_to_the_others(play) -> None:
    cache = StateCache(1000)
    gate, loads = Event(), []

    def load() -> TaskState:
        gate.wait(20)
        loads.append(1)
        return {"w": torch.zeros(3)}

    async def reader() -> int:
        async with cache.pinned("t", load) as entry:
            return len(entry.state(CPU))

    async def scene() -> None:
        first, second = (asyncio.create_task(reader()) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        gate.set()
        assert await second == 1
        assert first.cancelled()

    play(scene())
    assert len(loads) == 1


def test_a_load_that_fails_after_all_have_gone_is_quiet(play) -> None:
    cache = StateCache(1000)
    gate = Event()

    def load() -> TaskState:
        gate.wait(20)
        raise NotFound("no such version")

    async def reader() -> None:
        async with cache.pinned("t", load):
            pass

    async def scene() -> None:
        only = asyncio.create_task(reader())
        await asyncio.sleep(0)
        only.cancel()
        await asyncio.gather(only, return_exceptions=True)
        gate.set()
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)
        await use(cache, "t")

    play(scene())
    assert "t" in cache


def test_a_state_discarded_while_it_loads_is_not_kept(play) -> None:
    cache = StateCache(1000)
    gate = Event()

    def load() -> TaskState:
        gate.wait(20)
        return {"w": torch.zeros(3)}

    async def reader() -> int:
        async with cache.pinned("t", load) as entry:
            return len(entry.state(CPU)["w"])

    async def scene() -> None:
        task = asyncio.create_task(reader())
        await asyncio.sleep(0)
        cache.discard("t")
        gate.set()
        assert await task == 3

    play(scene())
    assert cache.size_bytes == 0
    assert "t" not in cache
