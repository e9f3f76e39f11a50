"""JSON pointers (RFC 6901) into a request."""

from typing import Final

_SHOWN_CHARACTERS: Final = 200


def pointer(*tokens: str | int) -> str:
    """Join tokens to a JSON pointer, escaped: `pointer("support", "a/b", 0)` is `/support/a~1b/0`."""
    return "".join("/" + str(token).replace("~", "~0").replace("/", "~1") for token in tokens)


def shown(text: str) -> str:
    """Text of the caller as an error quotes it: printable, and cut where it is long."""
    cut = text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."
    return repr(cut.encode("utf-8", "replace").decode("utf-8"))
