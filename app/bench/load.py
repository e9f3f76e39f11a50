"""The load: so many clients, each of which asks again as soon as it has its answer.

HTTP by hand over asyncio streams: a client library would take as long over a request as the server does.
"""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

WARM_S: Final = 0.5
"""Answers that come so soon after the start are not counted."""

PATIENCE_S: Final = 60.0
"""Longest wait for one answer."""


@dataclass(frozen=True)
class Target:
    """Where and what to ask."""

    port: int
    path: str
    content_type: str
    bodies: Iterator[bytes]


@dataclass
class Outcome:
    """What came back in `seconds`, after the warming up."""

    seconds: float = 0.0
    answered: int = 0
    failed: int = 0
    first_failure: str = ""
    latencies_s: list[float] = field(default_factory=list)
    own_cpu_s: float = 0.0
    """CPU seconds that the load itself took."""

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.answered / self.seconds if self.seconds else 0.0

    def latency_ms(self, share: float) -> float:
        """So many of the answers came sooner; NaN where none came."""
        ordered = sorted(self.latencies_s)
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


class Span:
    """What is counted: begins when the load is warm. A caller reads the server's counters at both ends."""

    def __init__(self) -> None:
        self.outcome = Outcome()
        self.opened = asyncio.Event()
        self.closed = asyncio.Event()

    def note(self, status: int, reason: bytes, seconds: float) -> None:
        """Count an answer, if it came in time."""
        if not self.opened.is_set() or self.closed.is_set():
            return
        if status == 200:
            self.outcome.answered += 1
            self.outcome.latencies_s.append(seconds)
            return
        self.outcome.failed += 1
        self.outcome.first_failure = self.outcome.first_failure or f"{status} {reason[:300].decode(errors='replace')}"


async def load(target: Target, clients: int, seconds: float, span: Span) -> None:
    """Ask for `WARM_S`, then for `seconds` that count: the span."""
    stop_s = time.monotonic() + WARM_S + seconds
    asking = [asyncio.create_task(_client(target, stop_s, span)) for _ in range(clients)]
    await asyncio.sleep(WARM_S)
    cpu_s, began_s = time.process_time(), time.monotonic()
    span.opened.set()
    await asyncio.sleep(max(0.0, stop_s - time.monotonic()))
    span.closed.set()
    span.outcome.seconds = time.monotonic() - began_s
    span.outcome.own_cpu_s = time.process_time() - cpu_s
    await asyncio.gather(*asking)


async def _client(target: Target, stop_s: float, span: Span) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
    head = f"POST {target.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {target.content_type}\r\nContent-Length: "
    try:
        while time.monotonic() < stop_s:
            body = next(target.bodies)
            began_s = time.monotonic()
            writer.write(f"{head}{len(body)}\r\n\r\n".encode() + body)
            status, answer = await asyncio.wait_for(_answer(reader), PATIENCE_S)
            span.note(status, answer, time.monotonic() - began_s)
            if status != 200:
                await asyncio.sleep(0.05)  # refused: not at once again
    finally:
        writer.close()


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status = int(head.split(b" ", 2)[1])
    length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
    return status, await reader.readexactly(length)
