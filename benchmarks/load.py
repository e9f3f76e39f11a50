"""A load generator in a process of its own, asked by `benchmarks.generator`.

Raw HTTP/1.1 over asyncio (uvloop where it is installed), with requests put together by hand: 50 microseconds of CPU a
request were seen in a closed loop and 200 in an open one, where httpx takes about a millisecond. What it loads are
backbones that answer some hundreds of requests a second, so its cost does not bind. Where thousands are expected (the
HTTP shell), wrk does it; but wrk has no open loop, and no latencies from the instant at which a request was due.
"""

import asyncio
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from heapq import merge
from itertools import accumulate, cycle
from random import Random
from typing import Any, final

from benchmarks import pipe
from benchmarks.connection import Connection, Request, Tally, connect
from benchmarks.plan import Outcome, Plan, Stream


@final
class Requests:
    """Puts requests together over one pool of bodies, which every plan goes on with where the last ended."""

    def __init__(self, bodies: Sequence[bytes]) -> None:
        self._bodies = cycle(bodies)

    def of(self, plan: Plan, number: int) -> Iterator[bytes]:
        """Those of a stream, without end."""
        stream = plan.streams[number]
        for path in _paths(stream, _random(f"{plan.seed} paths {number}")):
            body = next(self._bodies)
            head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {plan.content_type}\r\n"
            yield f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    def schedule(self, plan: Plan) -> Iterator[tuple[float, str, bytes]]:
        """Of all streams together: seconds after the start, name, bytes."""
        numbers = range(len(plan.streams))
        sources = [self.of(plan, number) for number in numbers]
        for after_s, number in merge(*(_instants(plan, number) for number in numbers)):
            yield after_s, plan.streams[number].name, next(sources[number])


def _random(seed: str) -> Random:
    return Random(seed)  # noqa: S311 - no secrets


def _paths(stream: Stream, draw: Random) -> Iterator[str]:
    if stream.weights is None:
        yield from cycle(stream.paths)
    paths, cumulated = list(stream.paths), list(accumulate(stream.weights or ()))
    while True:
        yield draw.choices(paths, cum_weights=cumulated)[0]


def _instants(plan: Plan, number: int) -> Iterator[tuple[float, int]]:
    rate = plan.streams[number].rate
    assert rate is not None, "a stream without clients is an open loop, and needs a rate"
    draw, after_s = _random(f"{plan.seed} instants {number}"), 0.0
    while (after_s := after_s + draw.expovariate(rate)) < plan.warm_s + plan.seconds:
        yield after_s, number


async def run(plan: Plan, requests: Requests) -> Outcome:
    """Whatever the plan says."""
    loop = _closed if plan.streams[0].clients else _open
    return await loop(plan, requests)


async def _closed(plan: Plan, requests: Requests) -> Outcome:
    (stream,) = plan.streams
    tally, over, source = Tally(), asyncio.Event(), requests.of(plan, 0)
    busy = stream.clients
    stop_s = float("inf")

    def idle(connection: Connection) -> None:
        nonlocal busy
        now_s = time.monotonic()
        if now_s < stop_s and tally.asked != plan.total and connection.usable:
            tally.ask()
            connection.send((stream.name, next(source), now_s))
            return
        busy -= 1
        if not busy:
            over.set()

    connections = [await connect(plan.port, tally, idle) for _ in range(stream.clients)]
    started_s = time.monotonic()
    if plan.total is None:
        stop_s = started_s + plan.warm_s + plan.seconds
    for one in connections:
        idle(one)
    await over.wait()
    ended_s = time.monotonic()
    for one in connections:
        one.close()
    if plan.total is not None:
        return tally.outcome(started_s, ended_s, ended_s - started_s)
    return tally.outcome(started_s + plan.warm_s, stop_s, plan.seconds)


async def _open(plan: Plan, requests: Requests) -> Outcome:
    lines = Lines(plan.port)
    tally = lines.tally
    started_s = time.monotonic() + 0.05
    for after_s, stream, request in requests.schedule(plan):
        due_s = started_s + after_s
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        tally.lateness_s.append(max(0.0, time.monotonic() - due_s))
        lines.send((stream, request, due_s))
    stop_s = started_s + plan.warm_s + plan.seconds
    await asyncio.sleep(max(0.0, stop_s - time.monotonic()))
    with suppress(TimeoutError):
        await asyncio.wait_for(tally.quiet.wait(), plan.grace_s)
    outcome = tally.outcome(started_s + plan.warm_s, stop_s, plan.seconds)
    lines.hang_up()
    await asyncio.sleep(0.05)
    return outcome


@final
class Lines:
    """As many connections as there are requests at one time: an open loop never waits for a free one."""

    def __init__(self, port: int) -> None:
        self.tally = Tally()
        self._port = port
        self._free: list[Connection] = []
        self._all: set[Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()

    def send(self, request: Request) -> None:
        """By a free connection, or by a new one."""
        self.tally.ask()
        while self._free:
            connection = self._free.pop()
            if connection.usable:
                connection.send(request)
                return
            self._all.discard(connection)
        task = asyncio.ensure_future(self._by_a_new_one(request))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _by_a_new_one(self, request: Request) -> None:
        try:
            connection = await connect(self._port, self.tally, self._free.append)
        except OSError as error:
            self.tally.lose(f"{type(error).__name__} on connecting")
            return
        self._all.add(connection)
        connection.send(request)

    def hang_up(self) -> None:
        """Close all."""
        for task in self._opening:
            task.cancel()
        for one in self._all:
            one.close()


def plan_of(message: dict[str, Any]) -> Plan:
    """As it came over the pipe."""
    return Plan(**{**message, "streams": [Stream(**one) for one in message["streams"]]})


async def serve() -> None:
    """Answer until the pipe ends: `null` brings a pool of bodies, all else is a plan."""
    requests = Requests([b""])
    # The pipe is read on the loop: while a question is awaited there is nothing else to do.
    while (came := pipe.read(sys.stdin.buffer)) is not None:
        message, payload = came
        if message is None:
            requests = Requests(payload)
            pipe.write(sys.stdout.buffer, len(payload))
        else:
            pipe.write(sys.stdout.buffer, asdict(await run(plan_of(message), requests)))


def main() -> None:
    """With uvloop where it is: it comes with uvicorn, but not on every system."""
    try:
        import uvloop  # noqa: PLC0415
    except ImportError:
        asyncio.run(serve())
    else:
        uvloop.run(serve())


if __name__ == "__main__":
    main()
