"""uvicorn's HTTP protocol, with the head and the body of an answer in one write.

uvicorn writes them one after the other, and each write is a system call, a packet, and a client that wakes up to read a
head without a body.
"""

import asyncio
from collections.abc import Iterable
from typing import Any, Final, cast, final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

AT_ONCE_BYTES: Final = 64 * 1024
"""So much does not wait for the event loop: a large answer is to leave while it is made."""


@final
class JoinedWrites:
    """A transport that passes on together what was written in one pass of the event loop; all else is that transport's.

    It is one by what it does: neither this nor uvloop's is an `asyncio.Transport` by its type.
    """

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._pieces: list[Any] = []
        self._size_bytes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: Any) -> None:
        """Take bytes; they leave when the event loop comes round, or as soon as they are many."""
        if not data:
            return
        if not self._pieces:
            self._loop.call_soon(self.pass_on)
        self._pieces.append(data)
        self._size_bytes += len(data)
        if self._size_bytes >= AT_ONCE_BYTES:
            self.pass_on()

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        """`write` for each."""
        for data in list_of_data:
            self.write(data)

    def pass_on(self) -> None:
        """Let go of what was written until now."""
        pieces, self._pieces, self._size_bytes = self._pieces, [], 0
        if pieces and not self._transport.is_closing():
            self._transport.writelines(pieces)

    def write_eof(self) -> None:
        """Write no more, after what was written."""
        self.pass_on()
        self._transport.write_eof()

    def close(self) -> None:
        """Close, after what was written."""
        self.pass_on()
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether nothing more can be written."""
        return bool(self._transport.is_closing())

    def get_write_buffer_size(self) -> int:
        """Bytes that have not left."""
        return self._size_bytes + int(self._transport.get_write_buffer_size())


class Protocol(HttpToolsProtocol):
    """One connection."""

    def connection_made(self, transport: Any) -> None:
        """The connection is there."""
        self._joined = JoinedWrites(transport, self.loop)
        super().connection_made(cast("asyncio.Transport", self._joined))

    def eof_received(self) -> None:
        """The client writes no more, whereupon the event loop closes: an answer that was made must leave before."""
        self._joined.pass_on()
        super().eof_received()
