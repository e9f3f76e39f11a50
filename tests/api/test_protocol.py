"""Answers on the wire: head and body leave in one write, and nothing of an answer is lost by that."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from app.api.protocol import AT_ONCE_BYTES, JoinedWrites, Protocol

PIECES = 5


class Recorder(asyncio.Transport):
    """What arrives where the connection was."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False

    def writelines(self, list_of_data: Any) -> None:
        self.writes.append(b"".join(list_of_data))

    def write_eof(self) -> None:
        self.writes.append(b"(end)")

    def get_write_buffer_size(self) -> int:
        return 100

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return "of the transport's own"

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


def written(*data: bytes | bytearray, gone: bool = False, close: bool = False) -> tuple[list[bytes], list[bytes]]:
    """The writes that arrive of these: before the event loop comes round, and in all."""
    came = Recorder()

    async def write() -> list[bytes]:
        joined = JoinedWrites(came, asyncio.get_running_loop())
        for one in data:
            joined.write(one)
        if close:
            joined.close()
        came.closed |= gone
        before = list(came.writes)
        await asyncio.sleep(0)
        return before

    return asyncio.run(write()), came.writes


def test_head_and_body_leave_as_one_write():
    assert written(b"head", bytearray(b"body")) == ([], [b"headbody"])


def test_a_head_without_a_body_does_not_wait_for_one():
    assert written(b"head", b"") == ([], [b"head"])


def test_a_large_answer_leaves_while_it_is_made():
    large = bytes(AT_ONCE_BYTES)
    assert written(b"head", large, b"rest") == ([b"head" + large], [b"head" + large, b"rest"])


def test_what_was_written_before_the_end_leaves_before_it():
    assert written(b"head", close=True) == ([b"head"], [b"head"])


def test_nothing_is_written_to_a_connection_that_has_gone():
    assert written(b"head", gone=True) == ([], [])


def test_whoever_writes_no_more_has_written_all():
    came = Recorder()

    async def write() -> None:
        joined = JoinedWrites(came, asyncio.get_running_loop())
        joined.write(b"all")
        assert joined.get_write_buffer_size() == 3 + 100
        joined.write_eof()
        assert joined.get_extra_info("peername") == "of the transport's own"

    asyncio.run(write())
    assert came.writes == [b"all", b"(end)"]


async def answers(scope: Any, receive: Any, send: Any) -> None:
    """An app with every kind of answer."""
    assert scope["type"] == "http"

    async def slowly():
        for index in range(PIECES):
            yield f"{index}" * 1000
            await asyncio.sleep(0.01 * (index % 2))

    made: Response = {
        "/text": PlainTextResponse("text"),
        "/large": Response(bytes(5_000_000)),
        "/empty": Response(status_code=304),
        "/stream": StreamingResponse(slowly()),
    }[scope["path"]]
    await made(scope, receive, send)


@pytest.fixture(params=["asyncio", "uvloop"])
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    """A server with the protocol, on each kind of event loop."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(answers, http=Protocol, loop=request.param, lifespan="off", log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield listening.getsockname()[1]
    server.should_exit = True
    thread.join()


def ask(port: int, *paths: str, method: str = "GET") -> bytes:
    """All that comes to requests sent at once, the last of which ends the connection."""
    heads = [f"{method} {path} HTTP/1.1\r\nhost: here\r\n" for path in paths]
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall("\r\n".join(heads).encode() + b"connection: close\r\n\r\n")
        came = bytearray()
        while piece := connection.recv(1 << 16):
            came += piece
    return bytes(came)


def test_an_answer_is_whole(port):
    head, _, body = ask(port, "/text").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert body == b"text"


def test_a_large_answer_is_whole(port):
    head, _, body = ask(port, "/large").partition(b"\r\n\r\n")
    assert b"content-length: 5000000" in head
    assert body == bytes(5_000_000)


@pytest.mark.parametrize(("path", "method"), [("/text", "HEAD"), ("/empty", "GET")])
def test_an_answer_without_a_body_ends_after_its_head(port, path, method):
    assert ask(port, path, method=method).partition(b"\r\n\r\n")[2] == b""


def test_a_stream_comes_in_its_order(port):
    body = ask(port, "/stream").partition(b"\r\n\r\n")[2]
    chunks = b"".join(f"3e8\r\n{str(index) * 1000}\r\n".encode() for index in range(PIECES))
    assert body == chunks + b"0\r\n\r\n"


def test_who_says_at_once_that_no_more_will_come_is_answered(port):
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            connection.sendall(b"GET /text HTTP/1.1\r\nhost: here\r\n\r\n")
            connection.shutdown(socket.SHUT_WR)
            came = bytearray()
            while piece := connection.recv(1 << 16):
                came += piece
        assert came.endswith(b"\r\n\r\ntext")


def test_a_client_that_reads_slowly_gets_all(port):
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(20)
        connection.connect(("127.0.0.1", port))
        connection.sendall(b"GET /large HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n")
        came = 0
        while piece := connection.recv(1 << 16):
            came += len(piece)
    assert came > 5_000_000


def test_requests_sent_together_are_answered_in_turn(port):
    came = ask(port, "/text", "/stream", "/text")
    assert came.count(b"HTTP/1.1 200 OK") == 3
    assert came.index(b"3e8") < came.rindex(b"\r\n\r\ntext")
    assert came.endswith(b"\r\n\r\ntext")
