"""multipart/form-data from memory: bytes as they came, nothing guessed, nothing dropped."""

from dataclasses import dataclass
from typing import final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from app.core.errors import Malformed, TooLarge
from app.core.limits import Limits

MOST_HEADER_BYTES = 64 * 1024
"""Of a part's headers: room for a label that is too long, which then gets its own answer."""


MOST_BOUNDARY_BYTES = 70  # RFC 2046


class BadMultipart(Malformed):
    """A body that is not the multipart that its Content-Type says."""

    code = "bad-multipart"
    title = "The multipart body cannot be read"


class TooManyParts(TooLarge):
    """More parts than a task may have examples."""

    code = "too-many-parts"
    title = "Too many parts"


@dataclass(frozen=True)
class Part:
    """One part. `media_type` is what the sender says; a plain field has neither it nor a file name."""

    name: str
    content: bytes
    media_type: str | None
    is_file: bool


def read_multipart(body: bytes, content_type: str, limits: Limits) -> list[Part]:
    """The parts of a body, in order. Raises `BadMultipart`, also for one that was cut short; `TooManyParts`."""
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary or len(boundary) > MOST_BOUNDARY_BYTES:
        raise BadMultipart("The Content-Type names no good boundary; let your HTTP client make this header.")
    collector = _Collector(limits)
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": collector.part_begin,
                "on_part_data": collector.part_data,
                "on_part_end": collector.part_end,
                "on_header_field": collector.header_field,
                "on_header_value": collector.header_value,
                "on_header_end": collector.header_end,
                "on_end": collector.end,
            },
            max_header_size=MOST_HEADER_BYTES,
        )
        parser.write(body)
    except FormParserError as error:
        raise BadMultipart(f"The multipart body cannot be read: {error}.") from error
    if not collector.ended:
        raise BadMultipart("The multipart body ends before its last boundary: it was cut short.")
    return collector.parts


@final
class _Collector:
    """Takes the parser's calls."""

    def __init__(self, limits: Limits) -> None:
        self.parts: list[Part] = []
        self.ended = False
        self._most = limits.examples
        self._headers: dict[bytes, bytes] = {}
        self._field = b""
        self._value = b""
        self._content: list[bytes] = []

    def part_begin(self) -> None:
        """A part begins. Raises `TooManyParts`."""
        if len(self.parts) >= self._most:
            raise TooManyParts(f"The body has more than {self._most} parts.", pointer="/support")
        self._headers, self._content = {}, []

    def header_field(self, data: bytes, start: int, end: int) -> None:
        """More of a header's name."""
        self._field += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        """More of a header's value."""
        self._value += data[start:end]

    def header_end(self) -> None:
        """A header is whole."""
        self._headers[self._field.lower()] = self._value
        self._field = self._value = b""

    def part_data(self, data: bytes, start: int, end: int) -> None:
        """More of a part's content."""
        self._content.append(data[start:end])

    def part_end(self) -> None:
        """A part is whole. Raises `BadMultipart` for one without a name."""
        kind, options = parse_options_header(self._headers.get(b"content-disposition"))
        if kind != b"form-data" or b"name" not in options:
            raise BadMultipart(f"Part {len(self.parts)} has no name; its Content-Disposition must give one")
        try:
            name = options[b"name"].decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadMultipart(f"The name of part {len(self.parts)} is not UTF-8.") from error
        coding = self._headers.get(b"content-transfer-encoding", b"binary").strip().lower()
        if coding not in (b"7bit", b"8bit", b"binary"):
            raise BadMultipart(f"Part {len(self.parts)} has a Content-Transfer-Encoding; send the bytes as they are.")
        if self._headers.get(b"content-type", b"").lower().startswith(b"multipart/"):
            raise BadMultipart(f"Part {len(self.parts)} is multipart itself; give every example a part of its own.")
        declared = self._headers.get(b"content-type", b"").decode("latin-1") or None
        self.parts.append(Part(name, b"".join(self._content), declared, b"filename" in options))

    def end(self) -> None:
        """The last boundary was seen."""
        self.ended = True
