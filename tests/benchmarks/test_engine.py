"""The benchmark of the engine: what it sends, what it makes of what it saw, and a short real run of some rows."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from app.api.multipart import read_multipart
from app.config import Settings
from app.core.limits import Limits
from benchmarks import bodies, engine, wrk
from benchmarks.bare import Bare
from benchmarks.engine_rows import cache, fairness, overload, shell, tasks
from benchmarks.pipe import Waiting
from benchmarks.plan import Answers, Outcome
from benchmarks.rounds import Scope, median_row, ratios
from benchmarks.setting_up import GLYPH, VECTOR, settings, vector_bodies, vector_task
from benchmarks.table import Row

TINY = Scope(rounds=1, seconds=0.3, tasks=120, distinct=4, overload_seconds=0.5, clients=4)


def answers(count: int, p99_ms: float, retry_after: int = 0) -> Answers:
    return Answers(count, count, p99_ms / 2, p99_ms, 2 * p99_ms, retry_after)


def by_name(rows: list[Row]) -> dict[str, Row]:
    return {row.name.strip(): row for row in rows}


def test_every_row_has_a_name_on_the_command_line() -> None:
    names = ["cpu", "tasks", "shell", "cache", "adapt", "maml", "start", "overload", "fairness"]

    assert list(engine.ROWS) == names
    assert engine.parser().parse_args(names).rows == names
    assert engine.parser().parse_args([]).rounds == 5
    with pytest.raises(SystemExit):
        engine.parser().parse_args(["nonsense"])


def test_the_title_says_what_was_cut_short() -> None:
    assert "FIRST LOOK" not in engine.title(Scope())

    title = engine.title(Scope(rounds=2, overload_seconds=10.0))

    assert "A FIRST LOOK: rounds 2 in place of 5, seconds of overload 10 in place of 60." in title


def test_servers_keep_no_embedding_unless_a_row_is_about_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in settings(Scope(), VECTOR).items():
        monkeypatch.setenv(f"IMPRINT_{name.upper()}", value)

    assert Settings().engine.embedding_cache_bytes == 0


def test_the_median_of_the_ratios_counts_and_the_spread_is_shown() -> None:
    found = ratios([2.0, 9.0, 4.0], [1.0, 3.0, 8.0])

    row = median_row("one over other", found, "times", 1.5, "lower", "why")

    assert found == [2.0, 3.0, 0.5]
    assert (row.value, row.verdict, row.note) == (2.0, "MISSED", "rounds 0.5 to 3; why")


@pytest.mark.parametrize("with_data", [False, True])
def test_photographs_are_jpegs_and_no_two_are_alike(with_data: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not with_data:
        monkeypatch.delenv("IMPRINT_DATA", raising=False)

    found = bodies.photographs(12, seed=1)

    pictures = [Image.open(io.BytesIO(one)) for one in found]
    assert {(one.format, one.size, one.mode) for one in pictures} == {("JPEG", (256, 256), "RGB")}
    assert len(set(found)) == 12
    assert found == bodies.photographs(12, seed=1) != bodies.photographs(12, seed=2)
    # Like photographs: neither empty nor noise, which would not compress.
    assert all(3_000 < len(one) < 60_000 for one in found)
    assert all(np.asarray(one).std() > 10 for one in pictures)


def test_sentences_are_made_up_where_there_are_no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IMPRINT_DATA", raising=False)

    found = bodies.sentences(50, seed=1)

    assert len(set(found)) == 50
    assert {5 <= len(one.split()) <= 15 for one in found} == {True}


def test_a_form_is_read_by_the_server_as_it_was_meant() -> None:
    support = bodies.shared_out([b"1", b"2\r\n", b"--3", b"4"], way=2)

    parts = read_multipart(bodies.multipart(support, "image/png"), bodies.MULTIPART, Limits())

    assert [(one.name, one.content) for one in parts] == [
        ("label 0", b"1"),
        ("label 0", b"2\r\n"),
        ("label 1", b"--3"),
        ("label 1", b"4"),
    ]
    assert {(one.media_type, one.is_file) for one in parts} == {("image/png", True)}


@pytest.fixture
def _one_thread() -> object:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("_one_thread")
def test_the_bare_backbone_embeds_as_many_as_it_says(tmp_path: Path) -> None:
    bare = Bare(GLYPH, "cpu", tmp_path)
    bare.prepare(bodies.glyphs(10, seed=1))

    took = bare.measure("torch", batch=8, least_inputs=25, least_s=0.0)

    assert took.inputs == 25
    assert bare.executors["torch"].forwards == 5  # one to warm up, then 8, 8, 8 and 1
    assert took.wall_s > 0


def test_a_process_that_fails_is_an_error() -> None:
    with (
        Waiting("benchmarks.nothing_here") as process,
        pytest.raises(RuntimeError, match="nothing_here ended with status"),
    ):
        process.ask(None)


def test_overload_is_judged_by_refusals_goodput_and_memory() -> None:
    first = Outcome(10.0, 3.0, {}, 7, {"": {"200": answers(900, 900.0), "429": answers(50, 20.0, 50)}})
    second = Outcome(
        10.0, 5.0, {"closed by the server": 1}, 0, {"": {"200": answers(400, 900.0), "503": answers(10, 80.0, 5)}}
    )
    memory = [(100, 200, 220), (100, 300, 300)]

    rows = by_name(overload.rows_of([100.0, 100.0], [first, second], memory))

    assert rows["8 refusals under overload, p99"].value == 50.0
    assert rows["8 refusals under overload, p99"].note == "rounds 20 to 80; 60 refusals; sent late, p99 5 ms"
    assert rows["8   of them with Retry-After"].value == 0.75
    assert rows["8 goodput over peak"].value == pytest.approx(0.65)
    assert rows["8 memory, last third over middle third"].value == pytest.approx(1.05)
    assert (rows["other failures"].value, rows["other failures"].note) == (1, "1 closed by the server")


def test_where_nothing_is_refused_the_answers_are_what_callers_wait_for() -> None:
    silent = Outcome(10.0, 3.0, {}, 0, {"": {"200": answers(900, 9_000.0)}})

    rows = by_name(overload.rows_of([100.0], [silent], [(1, 1, 1)]))

    assert (rows["8 refusals under overload, p99"].value, rows["8 refusals under overload, p99"].verdict) == (
        9_000.0,
        "MISSED",
    )


def test_fairness_is_judged_by_the_others() -> None:
    even = [Outcome(10.0, 0.0, {}, 0, {"others": {"200": answers(100, 30.0)}, "loud": {"200": answers(10, 30.0)}})]
    loud = [
        Outcome(
            10.0,
            0.0,
            {},
            0,
            {"others": {"200": answers(100, 45.0)}, "loud": {"200": answers(90, 900.0), "429": answers(4, 1.0, 4)}},
        )
    ]

    rows = by_name(fairness.rows_of(even, loud))

    row = rows["9 others' p99 beside one at 10 times the rate"]
    assert (row.value, row.verdict, row.note) == (1.5, "met", "rounds 1.5 to 1.5; 4 failed")
    assert rows["the loud one's p99"].value == 900.0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and pins processes")
def test_a_short_run_of_the_cache_counts_what_the_server_loads() -> None:
    rows = by_name(cache.measure(TINY))

    assert rows["4 errors"].value == 0
    assert 0 < rows["4 most cached bytes over the budget"].value <= 1
    assert rows["4 loads of 100 misses at once on a task"].value == 1
    assert rows["4 cold over warm, evicted"].value > 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and pins processes")
def test_a_short_run_asks_as_many_tasks_as_it_says() -> None:
    rows = tasks.rows_of(TINY, "vectors", VECTOR, vector_task, vector_bodies)

    assert [row.name for row in rows[:2]] == [
        "2 vectors: 4 tasks evenly over one task",
        "2 vectors: 4 tasks by Zipf over one task",
    ]
    assert all(row.value > 0 for row in rows)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and pins processes")
def test_a_short_run_of_the_shell_needs_no_wrk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wrk, "installed", lambda: False)

    rows = shell.measure(TINY)

    assert "our own generator" in rows[0].note
    assert all(row.value > 0 for row in rows)
