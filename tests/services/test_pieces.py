"""Large support sets are decoded in pieces side by side, and what comes out is what one thread would make of them."""

import asyncio
import io
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from threading import Event
from typing import ClassVar, final

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from app.codecs import Codec, DecodedInput, RawExample, RawInput, check_labels, check_whole, decode_inputs
from app.codecs.image import ImageCodec
from app.core.errors import ImprintError, TooFewLabels, UnknownName
from app.core.limits import Limits
from app.services.pieces import decoded_ahead, fresh_in_pieces
from app.services.support_sets import fresh
from app.services.workers import Workers

LIMITS = Limits()
CODEC = ImageCodec(
    {"height": 8, "width": 8, "channels": 3, "resize": "stretch", "interpolation": "bilinear"},
    Limits(image_pixels=100),
)


def picture(number: int, side: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (number, 0, 255 - number)).save(buffer, "PNG")
    return buffer.getvalue()


FILES = {
    "fine": picture(7),
    "empty": b"",
    "cut": picture(7)[:40],
    "gif": b"GIF89a" + b"\0" * 20,
    "large": picture(7, 11),
}


def examples(files: list[bytes]) -> list[RawExample]:
    return [
        RawExample(f"label {at % 2}", RawInput("bytes", file, f"/support/{at}"), "/l") for at, file in enumerate(files)
    ]


def ahead(raws: list[RawExample], threads: int = 3, codec: Codec = CODEC) -> list[DecodedInput] | None:
    with closing(Workers(threads)) as workers:
        return asyncio.run(decoded_ahead(workers, None, codec, raws, LIMITS, check_whole))


def test_a_set_in_pieces_is_the_set_of_one_thread():
    raws = examples([picture(number) for number in range(0, 250, 10)])
    inputs = ahead(raws)
    assert inputs is not None
    assert [one.sha256 for one in inputs] == [one.sha256 for one in decode_inputs(CODEC, [one.raw for one in raws])]
    pieces, whole = fresh(CODEC, raws, LIMITS, inputs), fresh(CODEC, raws, LIMITS)
    assert pieces.members == whole.members
    assert torch.equal(pieces.inputs, whole.inputs)


@settings(max_examples=60, deadline=None)
@given(kinds=st.lists(st.sampled_from(sorted(FILES)), min_size=5, max_size=60), threads=st.integers(1, 4))
def test_the_faults_of_a_set_in_pieces_are_those_that_one_thread_finds(kinds, threads):
    raws = examples([FILES[kind] for kind in kinds])
    found = outcome(lambda: ahead(raws, threads) or [])
    assert found == outcome(lambda: decode_inputs(CODEC, [one.raw for one in raws]))


def outcome(decode: Callable[[], list[DecodedInput]]) -> object:
    try:
        return [one.content for one in decode()]
    except ImprintError as error:
        return type(error), error.detail, error.faults


def test_a_set_that_is_refused_unseen_is_not_decoded():
    raws = [RawExample("one", RawInput("bytes", b"", "/support/0"), "/l") for _ in range(25)]
    with pytest.raises(TooFewLabels):
        ahead(raws)


def test_a_small_set_is_left_to_the_thread_that_makes_the_rest_of_it():
    assert ahead(examples([picture(1)] * CODEC.inputs_a_piece)) is None


@final
class Gated(Codec):
    """Reads one input a piece, notes which, and waits at the gate."""

    modality: ClassVar = "vector"
    inputs_a_piece: ClassVar[int] = 1

    def __init__(self) -> None:
        super().__init__(LIMITS)
        self.begun: list[str] = []
        self.reached, self.gate = Event(), Event()

    def decode(self, raw: RawInput) -> DecodedInput:
        self.begun.append(str(raw.pointer))
        self.reached.set()
        assert self.gate.wait(30)
        if raw.content == b"broken":
            raise RuntimeError("a bug")
        return DecodedInput(torch.zeros(1), bytes(raw.content), "")


@contextmanager
def gated(threads: int) -> Iterator[tuple[Workers, Gated]]:
    with closing(Workers(threads)) as workers:
        codec = Gated()
        try:
            yield workers, codec
        finally:
            codec.gate.set()


def named(name: str, count: int, content: bytes = b"") -> list[RawExample]:
    return [RawExample(name, RawInput("bytes", content, f"{name}{at}"), "/l") for at in range(count)]


def test_a_large_set_leaves_the_next_turn_to_whoever_comes_meanwhile():
    async def scene(workers: Workers, codec: Gated) -> None:
        large = asyncio.create_task(decoded_ahead(workers, "a", codec, named("a", 20), LIMITS, check_labels))
        await asyncio.to_thread(codec.reached.wait, 30)
        small = asyncio.create_task(workers.decode_for("b", codec.decode, named("b", 1)[0].raw))
        await asyncio.sleep(0)
        codec.gate.set()
        await asyncio.gather(large, small)
        assert codec.begun.index("b0") <= 2
        assert len(codec.begun) == 21

    with gated(1) as (workers, codec):
        asyncio.run(scene(workers, codec))


def test_a_caller_that_goes_leaves_a_piece_on_each_thread_and_no_turn_behind():
    async def scene(workers: Workers, codec: Gated) -> None:
        for _ in range(5):
            codec.reached.clear()
            codec.gate.clear()
            large = asyncio.create_task(decoded_ahead(workers, "a", codec, named("a", 20), LIMITS, check_labels))
            await asyncio.to_thread(codec.reached.wait, 30)
            large.cancel()
            with pytest.raises(asyncio.CancelledError):
                await large
            codec.gate.set()
            assert await workers.decode_for("b", len, "four") == 4
        assert len(codec.begun) <= 5 * 2

    with gated(2) as (workers, codec):
        asyncio.run(scene(workers, codec))


@pytest.mark.parametrize("count", [1, 25])
def test_what_comes_first_is_refused_before_anything_is_decoded(count):
    def first() -> None:
        raise UnknownName(kind="learner", name="x", known=[], pointer="/learner")

    with gated(2) as (workers, codec):
        codec.gate.set()
        with pytest.raises(UnknownName):
            asyncio.run(fresh_in_pieces(workers, codec, named("a", count), LIMITS, first))
        with pytest.raises(TooFewLabels):
            asyncio.run(fresh_in_pieces(workers, codec, named("a", count), LIMITS, lambda: None))
        assert codec.begun == []


def test_a_bug_in_a_piece_is_what_the_caller_gets_and_ends_the_rest():
    with gated(2) as (workers, codec):
        codec.gate.set()
        with pytest.raises(RuntimeError, match="a bug"):
            asyncio.run(decoded_ahead(workers, None, codec, named("a", 50, b"broken"), LIMITS, check_labels))
        assert len(codec.begun) < 50
