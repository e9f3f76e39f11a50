"""A request's headers and body, read at little cost: a prediction asks for ten headers, and most are not there."""

from typing import final

from starlette.requests import ClientDisconnect, Request
from starlette.types import Scope

KEY = "imprint.headers"


@final
class SentHeaders:
    """The first value of each header; names in lower case."""

    def __init__(self, scope: Scope) -> None:
        # From the last to the first, so that the first stays.
        self._values: dict[bytes, bytes] = dict(reversed(scope["headers"]))

    def get(self, name: bytes) -> str | None:
        """The value of a header, if it was sent."""
        value = self._values.get(name)
        return None if value is None else value.decode("latin-1")

    def __contains__(self, name: bytes) -> bool:
        return name in self._values


def header(request: Request, name: bytes) -> str | None:
    """A header of a request that came by way of our middleware."""
    sent: SentHeaders = request.scope[KEY]
    return sent.get(name)


@final
class Asked(Request):
    """A request whose body mostly comes in one piece."""

    _whole: bytes | None = None

    async def body(self) -> bytes:
        """All of it. Raises `ClientDisconnect`."""
        if self._whole is None:
            pieces = []
            more = True
            while more:
                message = await self.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                pieces.append(message.get("body", b""))
                more = message.get("more_body", False)
            self._whole = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return self._whole
