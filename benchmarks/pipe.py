"""A process of a benchmark that waits for its turn: lines of JSON, with bytes behind them where there are any."""

import json
import os
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any, final

ROOT = Path(__file__).parents[1]


def write(stream: IO[bytes], message: object, payload: Sequence[bytes] = ()) -> None:
    """Send one message."""
    line = json.dumps({"message": message, "sizes": [len(one) for one in payload]})
    stream.write(line.encode() + b"\n")
    stream.writelines(payload)
    stream.flush()


def read(stream: IO[bytes]) -> tuple[Any, list[bytes]] | None:
    """The next message with its bytes; `None` at the end."""
    line = stream.readline()
    if not line:
        return None
    envelope = json.loads(line)
    return envelope["message"], [stream.read(size) for size in envelope["sizes"]]


@contextmanager
def pinned(cores: Collection[int] | None) -> Iterator[None]:
    """What this thread starts meanwhile runs on these cores alone; `None` leaves it as it is."""
    if cores is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@final
class Waiting:
    """The other end: `python -m MODULE ARGUMENTS`, asked message by message."""

    def __init__(self, module: str, *arguments: str, cores: Collection[int] | None = None) -> None:
        self._name = module
        with pinned(cores):
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter, and a module of ours
                [sys.executable, "-m", module, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
            )

    def __enter__(self) -> "Waiting":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # It ends by itself when its questions end, and cleans up; or else at once.
        try:
            self._process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def ask(self, message: object, payload: Sequence[bytes] = ()) -> Any:
        """Its answer. Raises: `RuntimeError` where it ended instead."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            write(self._process.stdin, message, payload)
            answer = read(self._process.stdout)
        except BrokenPipeError:
            answer = None
        if answer is None:
            raise RuntimeError(f"{self._name} ended with status {self._process.wait()}.")
        return answer[0]
