"""The bell between the event loop and the device thread."""

import asyncio

from app.engine.mailbox import Mailbox


def test_works_put_in_one_after_the_other_ring_once():
    rung: list[str] = []

    async def put() -> None:
        mailbox = Mailbox(asyncio.get_running_loop())
        for _ in range(3):
            mailbox.ring(lambda: rung.append("rung"))
        assert not rung
        await passes()

    asyncio.run(put())
    assert rung == ["rung"]


def test_a_work_that_came_while_the_first_was_put_in_joins_it():
    seen: list[str] = []

    async def put_in() -> None:
        loop = asyncio.get_running_loop()
        mailbox = Mailbox(loop)

        def put(name: str) -> None:
            seen.append(name)
            mailbox.ring(lambda: seen.append("rung"))

        put("first")
        loop.call_soon(put, "second")  # as what a socket brings meanwhile
        await passes()

    asyncio.run(put_in())
    assert seen == ["first", "second", "rung"]


def test_the_bell_rings_again_for_what_comes_later():
    rung: list[str] = []

    async def put() -> None:
        mailbox = Mailbox(asyncio.get_running_loop())
        for _ in range(2):
            mailbox.ring(lambda: rung.append("rung"))
            await passes()

    asyncio.run(put())
    assert rung == ["rung", "rung"]


async def passes() -> None:
    """Let the event loop come round a few times."""
    for _ in range(4):
        await asyncio.sleep(0)
