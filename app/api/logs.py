"""Structured logs: one JSON object a line, ours and the libraries' alike, on standard error."""

import asyncio
import json
import logging
import sys
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal, final

import structlog
from pydantic_core import to_json

REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)
"""Of the request that is served here: on every line that is written meanwhile."""

_log = structlog.get_logger("imprint.http")


def configure(log_format: Literal["json", "console"], level: str) -> None:
    """Send structlog and the standard library's logging through the same chain.

    Our own lines are written straight away: by way of the standard library each took four times as long.
    """
    shared: list[structlog.typing.Processor] = [
        _with_request_id,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    last: list[structlog.typing.Processor]
    if log_format == "json":
        last = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(_json)]
    else:
        last = [
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
        ]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=_writer,
        cache_logger_on_first_use=True,
    )
    _Lines.straight = log_format == "json" and logging.getLevelNamesMapping()[level.upper()] <= logging.INFO
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("uvicorn.access").disabled = True
    logging.getLogger("alembic").setLevel(logging.WARNING)
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True


def _with_request_id(_: Any, __: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    request_id = REQUEST_ID.get()
    if request_id is not None:
        line.setdefault("request_id", request_id)
    return line


@final
class _Lines:
    """How the lines of requests are written."""

    straight = False
    """To standard error, not by way of structlog."""
    waiting: ClassVar[list[str]] = []
    """What was made in this pass of the event loop: a write a pass costs less than one a line."""
    loop: asyncio.AbstractEventLoop | None = None
    """The one that has them written; one that ended before it came round wrote nothing."""

    @classmethod
    def add(cls, line: str) -> None:
        """Only on an event loop."""
        loop = asyncio.get_running_loop()
        if not cls.waiting or cls.loop is not loop:
            cls.loop = loop
            loop.call_soon(cls.write)
        cls.waiting.append(line)

    @classmethod
    def write(cls) -> None:
        """All that wait."""
        lines, cls.waiting = cls.waiting, []
        if lines:
            _write("\n".join(lines))


def request(fields: dict[str, object], *, quiet: bool) -> None:
    """The line of one request. In JSON it is made here: that costs half of what the chain does, for every request."""
    if quiet:
        _log.debug("request", **fields)
    elif not _Lines.straight:
        _log.info("request", **fields)
    else:
        stamp = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        line = {**fields, "event": "request", "logger": "imprint.http", "level": "info", "timestamp": stamp}
        _Lines.add(_json(line, repr))


def _json(line: object, default: Callable[[Any], Any]) -> str:
    """Several times as fast as the standard library's, which writes what is no Unicode."""
    try:
        return to_json(line, fallback=default).decode()
    except ValueError:
        return json.dumps(line, default=default)


def _write(line: str) -> None:
    """In one piece, so that lines of several threads do not mix."""
    try:
        sys.stderr.write(line + "\n")
    except (OSError, ValueError):
        # A full disk, or nobody who reads: as in the standard library, no reason to fail a request.
        return


@final
class _Writer(structlog.WriteLogger):
    """Writes lines to standard error, which passes each on at its end; `name` is what `add_logger_name` looks for."""

    def __init__(self, name: str) -> None:
        super().__init__(sys.stderr)
        self.name = name

    def msg(self, message: str) -> None:
        """Write one line."""
        _write(message)

    log = debug = info = warn = warning = fatal = failure = err = error = critical = exception = msg


def _writer(*names: str) -> _Writer:
    return _Writer(names[0] if names else "imprint")
