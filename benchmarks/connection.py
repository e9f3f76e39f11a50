"""What a load generator counts, and one connection of it."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, cast, final

from benchmarks.latency import percentile
from benchmarks.plan import Answers, Outcome

LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
RETRY_AFTER: Final = re.compile(rb"\r\nretry-after: *\d", re.IGNORECASE)
CLOSES: Final = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)

Request = tuple[str, bytes, float]
"""The stream's name, the bytes, and when it was due."""


@final
class Tally:
    """Latencies by stream and status."""

    def __init__(self) -> None:
        self._found: dict[str, dict[str, list[tuple[float, float, bool]]]] = {}
        self.lateness_s: list[float] = []
        self.asked = 0
        self.answered = 0
        self.lost: Counter[str] = Counter()
        """By what ended the connection."""
        self.quiet = asyncio.Event()
        """Set while no request waits for its answer."""

    @property
    def waiting(self) -> int:
        """Requests that may still be answered."""
        return self.asked - self.answered - self.lost.total()

    def ask(self) -> None:
        """One request."""
        self.asked += 1
        self.quiet.clear()

    def lose(self, why: str) -> None:
        """One that gets no answer any more."""
        self.lost[why] += 1
        self._look()

    def add(self, stream: str, status: str, due_s: float, now_s: float, retry_after: bool) -> None:
        """One answer."""
        self.answered += 1
        self._found.setdefault(stream, {}).setdefault(status, []).append((now_s, now_s - due_s, retry_after))
        self._look()

    def _look(self) -> None:
        if not self.waiting:
            self.quiet.set()

    def outcome(self, since_s: float, until_s: float, seconds: float) -> Outcome:
        """The sum; what came from `since_s` to `until_s` counts."""
        streams = {
            stream: {status: _answers(found, since_s, until_s) for status, found in statuses.items()}
            for stream, statuses in self._found.items()
        }
        late_ms = 1000 * percentile(self.lateness_s, 0.99) if self.lateness_s else 0.0
        return Outcome(seconds, late_ms, dict(self.lost), self.waiting, streams)


def _answers(found: Sequence[tuple[float, float, bool]], since_s: float, until_s: float) -> Answers:
    counted = [took_s for at_s, took_s, _ in found if since_s <= at_s <= until_s]
    took_ms = [1000 * took_s for took_s in counted]
    return Answers(
        count=len(found),
        counted=len(counted),
        p50_ms=percentile(took_ms, 0.5),
        p99_ms=percentile(took_ms, 0.99),
        most_ms=max(took_ms, default=float("nan")),
        retry_after=sum(has for _, _, has in found),
    )


@final
class Connection(asyncio.Protocol):
    """One request at a time over one socket."""

    def __init__(self, tally: Tally, idle: "Callable[[Connection], None]") -> None:
        self._tally = tally
        self._idle = idle
        self._buffer = b""
        self._request: Request | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by what it does alone

    def send(self, request: Request) -> None:
        """Send; `idle` is called when the answer is there."""
        assert self._transport is not None
        self._request = request
        self._transport.write(request[1])

    def data_received(self, data: bytes) -> None:
        """Look whether the answer is whole."""
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 or self._request is None:
            return
        head = self._buffer[: end + 2]
        length = LENGTH.search(head)
        if length is None:
            raise RuntimeError("An answer without a Content-Length.")
        if len(self._buffer) < end + 4 + int(length[1]):
            return
        stream, _, due_s = self._request
        self._request, self._buffer = None, b""
        status = head[9:12].decode()
        self._tally.add(stream, status, due_s, time.monotonic(), bool(RETRY_AFTER.search(head)))
        if CLOSES.search(head):
            self.close()
            self._transport = None
        self._idle(self)

    def connection_lost(self, error: Exception | None) -> None:
        """Count a request that gets no answer any more; `idle` is told of it, too."""
        self._transport = None
        if self._request is not None:
            self._request = None
            self._tally.lose(type(error).__name__ if error else "closed by the server")
            self._idle(self)

    @property
    def usable(self) -> bool:
        """Can it send?"""
        return self._transport is not None and not self._transport.is_closing()

    def close(self) -> None:
        """Hang up; what is not answered is not counted as lost."""
        self._request = None
        if self._transport is not None:
            self._transport.close()


async def connect(port: int, tally: Tally, idle: Callable[[Connection], None]) -> Connection:
    """A connection to this machine. Raises: `OSError`."""
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: Connection(tally, idle), "127.0.0.1", port)
    return connection
