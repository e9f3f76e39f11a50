"""The load generator sends what its plan says, and counts what comes back."""

import io
import math
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from threading import Event, Lock, Thread

import pytest

from benchmarks import pipe, wrk
from benchmarks.generator import Generator
from benchmarks.latency import percentile
from benchmarks.load import Requests
from benchmarks.plan import Plan, Stream
from benchmarks.setting_up import zipf


class Handler(BaseHTTPRequestHandler):
    """Notes what comes. /busy is refused, /gone hangs up, /never waits until the test is over."""

    protocol_version = "HTTP/1.1"
    server: "Noting"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.lock:
            self.server.came.append((self.path, self.headers["Content-Type"], body))
        if self.path == "/gone":
            self.close_connection = True
            return
        if self.path == "/never":
            self.server.over.wait(60)
        busy = self.path == "/busy"
        self.send_response(429 if busy else 200)
        if busy:
            self.send_header("Retry-After", "1")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *arguments: object) -> None:
        pass


class Noting(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.came: list[tuple[str, str, bytes]] = []
        self.lock = Lock()
        self.over = Event()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hung up is what a test wants."""


@pytest.fixture
def server() -> Iterator[Noting]:
    with Noting() as made:
        thread = Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.over.set()
        made.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def generator() -> Iterator[Generator]:
    with Generator() as made:
        yield made


def plan(server: Noting, *streams: Stream, **how: object) -> Plan:
    return Plan(server.server_port, "text/plain", streams, **how)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 3.0), (0.99, 5.0), (0.2, 1.0), (0.21, 2.0), (0.0, 1.0), (1.0, 5.0)]
)
def test_a_percentile_is_the_nearest_rank(share: float, expected: float) -> None:
    assert percentile([5.0, 1.0, 4.0, 2.0, 3.0], share) == expected


def test_the_p99_of_two_hundred_is_the_third_from_the_top() -> None:
    assert percentile([float(value) for value in range(1, 201)], 0.99) == 198.0
    assert math.isnan(percentile([], 0.5))


def test_zipf_halves_by_its_law() -> None:
    weights = zipf(3)

    assert weights == pytest.approx([1.0, 0.46651649, 0.29865283])


def test_messages_and_their_bytes_pass_the_pipe() -> None:
    stream = io.BytesIO()
    pipe.write(stream, {"seconds": 1.5}, [b"a\nb", b"", b"\x00\xff"])
    pipe.write(stream, None)
    stream.seek(0)

    assert pipe.read(stream) == ({"seconds": 1.5}, [b"a\nb", b"", b"\x00\xff"])
    assert pipe.read(stream) == (None, [])
    assert pipe.read(stream) is None


def test_a_closed_loop_sends_so_many_in_turn(server: Noting, generator: Generator) -> None:
    generator.pool([b"one", b"two", b"three"])

    outcome = generator.run(plan(server, Stream(["/a", "/b"], clients=1), total=5))

    assert server.came == [
        (path, "text/plain", body)
        for path, body in zip(["/a", "/b", "/a", "/b", "/a"], [b"one", b"two", b"three", b"one", b"two"], strict=True)
    ]
    answers = outcome.of(200)
    assert (answers.count, answers.counted, outcome.failed, outcome.unanswered) == (5, 5, 0, 0)
    assert 0 < answers.p50_ms <= answers.p99_ms <= answers.most_ms
    assert outcome.rate() == pytest.approx(5 / outcome.seconds)


def test_the_next_plan_goes_on_with_the_bodies(server: Noting, generator: Generator) -> None:
    generator.pool([b"one", b"two", b"three"])

    for _ in range(2):
        generator.run(plan(server, Stream(["/a"], clients=1), total=2))

    assert [body for _, _, body in server.came] == [b"one", b"two", b"three", b"one"]


def test_clients_of_a_closed_loop_send_side_by_side(server: Noting, generator: Generator) -> None:
    outcome = generator.run(plan(server, Stream(["/a"], clients=4), total=4))

    assert outcome.of(200).count == len(server.came) == 4


def test_a_closed_loop_ends_with_its_time(server: Noting, generator: Generator) -> None:
    outcome = generator.run(plan(server, Stream(["/a"], clients=2), seconds=0.2, warm_s=0.1))

    answers = outcome.of(200)
    assert answers.count == len(server.came) >= answers.counted > 0
    assert outcome.seconds == 0.2


def test_refusals_are_told_apart_and_their_header_is_seen(server: Noting, generator: Generator) -> None:
    outcome = generator.run(plan(server, Stream(["/a", "/busy"], clients=1), total=6))

    assert (outcome.of(200).count, outcome.of(200).retry_after) == (3, 0)
    assert (outcome.of(429).count, outcome.of(429).retry_after) == (3, 3)
    assert (outcome.failed, outcome.finished) == (3, 6)


def test_a_connection_that_ends_without_an_answer_is_lost(server: Noting, generator: Generator) -> None:
    outcome = generator.run(plan(server, Stream(["/gone"], clients=2), total=4))

    assert (outcome.lost, outcome.finished, outcome.failed) == ({"closed by the server": 2}, 0, 2)
    assert outcome.failures() == outcome.lost


def test_an_open_loop_sends_by_its_schedule_alone(server: Noting, generator: Generator) -> None:
    streams = (Stream(["/a"], rate=100.0, name="one"), Stream(["/busy"], rate=50.0, name="other"))
    wanted = plan(server, *streams, seconds=0.4, grace_s=10.0)

    outcome = generator.run(wanted)

    scheduled = [name for _, name, _ in Requests([b""]).schedule(wanted)]
    assert outcome.of(200, "one").count == scheduled.count("one") > 20
    assert outcome.of(429, "other").count == scheduled.count("other") > 5
    assert (outcome.unanswered, outcome.lost) == (0, {})
    assert outcome.failures() == {"429": scheduled.count("other")}


def test_an_open_loop_does_not_wait_for_answers(server: Noting, generator: Generator) -> None:
    wanted = plan(server, Stream(["/never"], rate=50.0), seconds=0.3)

    outcome = generator.run(wanted)

    assert outcome.unanswered == len(list(Requests([b""]).schedule(wanted))) > 5
    assert outcome.finished == 0


def test_a_schedule_is_the_same_for_a_seed_and_has_the_rate() -> None:
    def instants(seed: int) -> list[float]:
        streams = [Stream(["/a"], rate=300.0), Stream(["/b"], rate=700.0)]
        return [
            at_s for at_s, _, _ in Requests([b""]).schedule(Plan(1, "", streams, seconds=9.0, warm_s=1.0, seed=seed))
        ]

    found = instants(1)

    assert found == sorted(found) == instants(1) != instants(2)
    assert found[-1] < 10.0
    assert 9_700 < len(found) < 10_300


def test_paths_are_drawn_by_their_weights() -> None:
    stream = Stream(["/often", "/never", "/seldom"], weights=[9.0, 0.0, 1.0], rate=1.0)

    drawn = [one.split()[1] for one in islice(Requests([b""]).of(Plan(1, "", [stream]), 0), 1_000)]

    assert drawn.count(b"/never") == 0
    assert 860 < drawn.count(b"/often") < 940


def test_a_generator_that_ended_is_an_error_and_no_silence(server: Noting) -> None:
    with Generator() as made, pytest.raises(RuntimeError, match="ended with status"):
        made.run(Plan(server.server_port, "", [Stream(["/a"])], seconds=1.0))


def test_what_wrk_says_reads_like_our_own() -> None:
    said = {"requests": 120, "duration_us": 2_000_000, "bad": 20, "lost": 3, "p50_us": 900, "p99_us": 1500}

    outcome = wrk.outcome_of({**said, "most_us": 2500})

    assert outcome.rate() == 50.0
    assert (outcome.of(200).p50_ms, outcome.of(200).p99_ms, outcome.of(200).most_ms) == (0.9, 1.5, 2.5)
    assert outcome.failed == 23


@pytest.mark.skipif(not wrk.installed(), reason="wrk is not installed")
def test_wrk_sends_our_bodies_and_its_answer_is_read(server: Noting, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{server.server_port}/a"

    outcome = wrk.run(url, [b'{"one": 1}', b'{"two": 2}'], 2, 1.0, tmp_path, None)

    assert {one[2] for one in server.came} == {b'{"one": 1}', b'{"two": 2}'}
    assert {one[:2] for one in server.came} == {("/a", "application/json")}
    assert 0 < outcome.finished <= len(server.came)
    assert outcome.of(200).most_ms >= outcome.of(200).p99_ms >= outcome.of(200).p50_ms > 0
    assert outcome.failed == 0
