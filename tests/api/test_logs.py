"""The lines of requests: one write a pass of the event loop, and none is lost."""

import asyncio
import json

from app.api import logs


class Written:
    """A standard error that keeps each write."""

    def __init__(self) -> None:
        self.writes: list[str] = []

    def write(self, text: str) -> int:
        self.writes.append(text)
        return len(text)

    def flush(self) -> None: ...


def numbers(text: str) -> list[int]:
    return [json.loads(line)["number"] for line in text.splitlines()]


def test_lines_of_one_pass_are_one_write(monkeypatch):
    written = Written()
    monkeypatch.setattr(logs._Lines, "straight", True)
    monkeypatch.setattr("sys.stderr", written)

    async def passes() -> None:
        for first in (0, 3):
            for number in range(first, first + 3):
                logs.request({"number": number}, quiet=False)
            await asyncio.sleep(0)

    asyncio.run(passes())
    assert [numbers(one) for one in written.writes] == [[0, 1, 2], [3, 4, 5]]


def test_the_last_line_is_written_although_the_loop_ends(monkeypatch):
    written = Written()
    monkeypatch.setattr(logs._Lines, "straight", True)
    monkeypatch.setattr("sys.stderr", written)

    async def last() -> None:
        logs.request({"number": 7}, quiet=False)

    asyncio.run(last())
    assert numbers("".join(written.writes)) == [7]


def test_lines_of_a_loop_that_never_came_round_are_written_by_the_next(monkeypatch):
    written = Written()
    monkeypatch.setattr(logs._Lines, "straight", True)
    monkeypatch.setattr("sys.stderr", written)

    async def line(number: int) -> None:
        logs.request({"number": number}, quiet=False)

    broken = asyncio.new_event_loop()
    broken.run_until_complete(line(1))
    broken.close()
    asyncio.run(line(2))
    assert numbers("".join(written.writes)) == [1, 2]
