"""uvicorn's HTTP protocol, with the head and the body of an answer in one write.

uvicorn writes them one after the other, and each write is a system call, a packet, and a client that wakes up to read a
head without a body.
"""

import asyncio
from collections.abc import Iterable
from typing import Any, Final, final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

AT_ONCE_BYTES: Final = 64 * 1024
"""So much does not wait for the event loop: a large answer is to leave while it is made."""


@final
class JoinedWrites(asyncio.Transport):
    """A transport that passes on together what was written in one pass of the event loop."""

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        """`transport` is one by what it does: uvloop's is no `asyncio.Transport` by its type."""
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._pieces: list[Any] = []
        self._size_bytes = 0

    def write(self, data: Any) -> None:
        """Take bytes; they leave when the event loop comes round, or as soon as they are many."""
        if not data:
            return
        if not self._pieces:
            self._loop.call_soon(self._pass_on)
        self._pieces.append(data)
        self._size_bytes += len(data)
        if self._size_bytes >= AT_ONCE_BYTES:
            self._pass_on()

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        """`write` for each."""
        for data in list_of_data:
            self.write(data)

    def close(self) -> None:
        """Close, after what was written."""
        self._pass_on()
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def is_closing(self) -> bool:
        """Whether nothing more can be written."""
        return bool(self._transport.is_closing())

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What is known of the connection."""
        return self._transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        """Take nothing from the client."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Take from the client again."""
        self._transport.resume_reading()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Pass on to another what comes."""
        self._transport.set_protocol(protocol)

    def _pass_on(self) -> None:
        pieces, self._pieces, self._size_bytes = self._pieces, [], 0
        if pieces and not self._transport.is_closing():
            self._transport.writelines(pieces)


class Protocol(HttpToolsProtocol):
    """One connection."""

    def connection_made(self, transport: Any) -> None:
        """The connection is there."""
        super().connection_made(JoinedWrites(transport, self.loop))
