import contextlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.codecs._base import RawInput, decode_inputs
from app.codecs.text import TextCodec
from app.core.errors import ImprintError, Invalid, TooLarge
from app.core.limits import Limits


def raw(text: str, at: int = 0) -> RawInput:
    return RawInput("text", text, f"/inputs/{at}/text")


def refused(codec: TextCodec, one: RawInput) -> ImprintError:
    with pytest.raises(ImprintError) as caught:
        codec.decode(one)
    assert [fault.pointer for fault in caught.value.faults] == [one.pointer]
    return caught.value


def test_a_text_becomes_token_ids_without_padding(text_codec: TextCodec) -> None:
    item = text_codec.decode(raw("The cats sat"))
    assert item.tensor.tolist() == [2, 4, 5, 10, 6, 3]
    assert item.tensor.dtype == torch.int64
    assert not item.truncated
    assert item.content == b"The cats sat"


def test_truncation_is_ours_and_is_reported(text_codec: TextCodec) -> None:
    whole, cut = text_codec.decode(raw("cat " * 8)), text_codec.decode(raw("cat " * 9))
    assert [len(whole.tensor), len(cut.tensor)] == [10, 10]
    assert [whole.truncated, cut.truncated] == [False, True]
    assert cut.tensor[-1] == 3
    assert cut.content == ("cat " * 9).encode()


def test_a_literal_pad_token_is_read_as_characters(text_codec: TextCodec) -> None:
    assert text_codec.decode(raw("cat [PAD] cat")).tensor.tolist() == [2, 5, 8, 7, 9, 5, 3]


def test_a_stack_is_padded_with_zeros_to_its_longest_text(text_codec: TextCodec) -> None:
    tensors = [text_codec.decode(raw(text)).tensor for text in ("cat", "the cat sat", "the")]
    stacked = text_codec.stack(tensors)
    assert stacked.tolist() == [[2, 5, 3, 0, 0], [2, 4, 5, 6, 3], [2, 4, 3, 0, 0]]


def test_a_batch_gives_what_single_texts_give(text_codec: TextCodec) -> None:
    raws = [raw("cat " * (at % 12 + 1), at) for at in range(600)]
    for one, item in zip(raws, decode_inputs(text_codec, raws), strict=True):
        alone = text_codec.decode(one)
        assert torch.equal(item.tensor, alone.tensor)
        assert (item.sha256, item.truncated) == (alone.sha256, alone.truncated)


def test_bad_texts_in_a_batch_are_each_pointed_at(text_codec: TextCodec) -> None:
    raws = [
        raw("cat", 0),
        raw("", 1),
        raw("the", 2),
        raw("\u200b", 3),
        raw("a\0b", 4),
        RawInput("bytes", b"\xff", "/b"),
    ]
    with pytest.raises(Invalid) as caught:
        decode_inputs(text_codec, raws)
    assert [(fault.pointer, fault.code) for fault in caught.value.faults] == [
        ("/inputs/1/text", "empty-text"),
        ("/inputs/3/text", "empty-text"),
        ("/inputs/4/text", "invalid-text"),
        ("/b", "not-utf8"),
    ]


@pytest.mark.parametrize("text", ["", " \n\t\u3000", "\u200b", "\x01\x02", "\ufeff"])
def test_an_empty_text_is_refused(text_codec: TextCodec, text: str) -> None:
    assert refused(text_codec, raw(text)).code == "empty-text"
    assert refused(text_codec, RawInput("bytes", text.encode(), "/body")).code == "empty-text"


@pytest.mark.parametrize("text", ["a\0b", "a\ud800b", "\udfff"])
def test_nul_and_lone_surrogates_are_refused(text_codec: TextCodec, text: str) -> None:
    assert refused(text_codec, raw(text)).code == "invalid-text"


def test_a_text_of_one_megabyte_is_refused_before_tokenizing(
    text_codec: TextCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_codec, "_tokenizer", None)
    for one in (raw("cat " * 250_000), RawInput("bytes", b"cat " * 250_000, "/body")):
        error = refused(text_codec, one)
        assert isinstance(error, TooLarge)
        assert error.code == "text-too-long"


def test_the_limit_counts_characters_not_bytes(tokenizer_path: Path) -> None:
    codec = TextCodec(tokenizer_path, {"max_tokens": 10}, Limits(text_characters=4))
    assert codec.decode(RawInput("bytes", "😀😀😀😀".encode(), "/body")).content == "😀😀😀😀".encode()
    assert refused(codec, RawInput("bytes", b"abcde", "/body")).code == "text-too-long"
    assert refused(codec, RawInput("bytes", b"\xff" * 99, "/body")).code == "text-too-long"


@pytest.mark.parametrize("data", [b"\xff\xfe", b"caf\xe9", b"\xed\xa0\x80", b"cat\xc3"])
def test_bytes_that_are_not_utf8_are_refused(text_codec: TextCodec, data: bytes) -> None:
    assert refused(text_codec, RawInput("bytes", data, "/body")).code == "not-utf8"


def test_a_byte_order_mark_is_dropped(text_codec: TextCodec) -> None:
    assert text_codec.decode(RawInput("bytes", b"\xef\xbb\xbfcat", "/body")).content == b"cat"


@pytest.mark.parametrize("text", ["שלום עולם", "😀👩‍👩‍👧", "日本語", "cat\u202e"])
def test_right_to_left_and_emoji_texts_work(text_codec: TextCodec, text: str) -> None:
    item = text_codec.decode(raw(text))
    assert len(item.tensor) > 2
    again = text_codec.decode(RawInput("bytes", item.content, "/body", item.media_type))
    assert torch.equal(item.tensor, again.tensor)
    assert item.sha256 == again.sha256


@pytest.mark.parametrize(
    ("texts", "quick"),
    [
        (["my parcel is late"], True),
        (["a" * 200], True),
        (["a" * 201], False),
        (["word " * 30] * 2, False),
        ([b"hm"], True),
    ],
)
def test_a_sentence_or_two_are_tokenized_where_they_are(
    text_codec: TextCodec, texts: list[str | bytes], quick: bool
) -> None:
    raws = [RawInput("bytes" if isinstance(one, bytes) else "text", one, "/inputs/0") for one in texts]
    assert text_codec.is_quick(raws) is quick


def test_many_threads_share_one_codec(text_codec: TextCodec) -> None:
    raws = [raw("cat " * (at % 12 + 1)) for at in range(400)]
    with ThreadPoolExecutor(8) as pool:
        items = list(pool.map(text_codec.decode, raws))
    assert [len(item.tensor) for item in items] == [min(10, at % 12 + 3) for at in range(400)]


@pytest.mark.parametrize("kind", ["vector", "base64"])
def test_other_kinds_than_texts_are_refused(text_codec: TextCodec, kind: str) -> None:
    assert refused(text_codec, RawInput(kind, "YQ==" if kind == "base64" else [1.0], "/x")).code == "wrong-input-kind"


@pytest.mark.parametrize("preprocessing", [{}, {"max_tokens": "9"}, {"max_tokens": 9, "lower": True}])
def test_preprocessing_that_cannot_be_is_refused_when_loaded(
    tokenizer_path: Path, limits: Limits, preprocessing: dict[str, object]
) -> None:
    with pytest.raises(ValueError, match="max_tokens"):
        TextCodec(tokenizer_path, preprocessing, limits)


def test_a_broken_tokenizer_file_is_refused_when_loaded(tmp_path: Path, limits: Limits) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0"}), encoding="utf-8")
    with pytest.raises(ValueError, match="tokenizer file"):
        TextCodec(tmp_path / "tokenizer.json", {"max_tokens": 9}, limits)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.text(max_size=60), st.text("[]PADCLSEU cat", max_size=60)), st.binary(max_size=60))
def test_any_text_and_any_bytes_decode_without_zeros_or_are_an_error_of_ours(
    text_codec: TextCodec, text: str, data: bytes
) -> None:
    for one in (raw(text), RawInput("bytes", data, "/body")):
        with contextlib.suppress(ImprintError):
            assert (text_codec.decode(one).tensor != 0).all()
