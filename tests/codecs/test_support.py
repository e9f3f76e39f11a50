import unicodedata
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from app.codecs._base import RawInput
from app.codecs._errors import BadLabel, LabelTooLong
from app.codecs.pointer import pointer
from app.codecs.support import RawExample, decode_examples, example_id, normalise_label, parse_support
from app.codecs.vector import VectorCodec
from app.core.errors import ImprintError, Invalid, TooFewLabels, TooLarge
from app.core.limits import Limits

Make = Callable[..., list[RawExample]]
LIMITS = Limits()


def test_labels_are_sorted_and_rows_follow_the_content(vector_codec: VectorCodec, vector_examples: Make) -> None:
    raws = vector_examples(("dog", [1.0, 0.0]), ("cat", [0.0, 1.0]), ("dog", [2.0, 0.0]), ("ant", [3.0, 3.0]))
    parsed = parse_support(vector_codec, raws, LIMITS)
    assert parsed.labels == ("ant", "cat", "dog")
    assert parsed.support.way == 3
    assert [(item.input.sha256, item.label) for item in parsed.examples] == sorted(
        (item.input.sha256, item.label) for item in parsed.examples
    )
    for row, label, item in zip(parsed.support.inputs, parsed.support.labels, parsed.examples, strict=True):
        assert torch.equal(row, item.input.tensor)
        assert parsed.labels[int(label)] == item.label
        assert item.example_id == example_id(item.label, item.input.sha256)


def test_the_order_of_examples_changes_nothing(vector_codec: VectorCodec, vector_examples: Make) -> None:
    raws = vector_examples(*[(f"label {at % 4}", [float(at), 1.0]) for at in range(20)])
    first = parse_support(vector_codec, raws, LIMITS)
    for seed in range(5):
        order = torch.randperm(len(raws), generator=torch.Generator().manual_seed(seed)).tolist()
        again = parse_support(vector_codec, [raws[at] for at in order], LIMITS)
        assert torch.equal(first.support.inputs, again.support.inputs)
        assert torch.equal(first.support.labels, again.support.labels)
        assert [item.example_id for item in first.examples] == [item.example_id for item in again.examples]


def test_exact_repetitions_collapse_and_conflicts_are_counted(vector_codec: VectorCodec, vector_examples: Make) -> None:
    raws = vector_examples(
        ("cat", [1.0]), ("cat", [1.0]), ("cat", [1.0]), ("dog", [1.0]), ("ant", [1.0]), ("dog", [2.0]), ("ant", [2.0])
    )
    parsed = parse_support(vector_codec, raws, LIMITS)
    assert len(parsed.examples) == 5
    assert (parsed.duplicates, parsed.conflicts, parsed.truncated) == (2, 2, 0)


def test_truncated_texts_are_counted(text_codec: object) -> None:
    texts = [("a", "cat " * 20), ("b", "cat"), ("b", "the " * 20)]
    raws = [RawExample(label, RawInput("text", text, "/t"), "/l") for label, text in texts]
    assert parse_support(text_codec, raws, LIMITS).truncated == 2


def test_one_label_only_is_refused(vector_codec: VectorCodec, vector_examples: Make) -> None:
    for pairs in ([("cat", [1.0]), ("cat", [2.0])], []):
        with pytest.raises(TooFewLabels) as caught:
            parse_support(vector_codec, vector_examples(*pairs), LIMITS)
        assert caught.value.faults[0].pointer == "/support"


def test_labels_that_differ_only_in_their_spelling_are_one_label(
    vector_codec: VectorCodec, vector_examples: Make
) -> None:
    with pytest.raises(TooFewLabels):
        parse_support(vector_codec, vector_examples(("caf\u00e9", [1.0]), ("cafe\u0301", [2.0])), LIMITS)


def test_10001_labels_are_refused_before_anything_is_decoded(vector_codec: VectorCodec, vector_examples: Make) -> None:
    raws = vector_examples(*[(f"label {at}", "not a vector") for at in range(10_001)])
    with pytest.raises(TooLarge) as caught:
        parse_support(vector_codec, raws, LIMITS)
    assert caught.value.code == "too-many-labels"
    assert caught.value.faults[0].pointer == "/support"


def test_more_examples_than_the_limit_are_refused(vector_codec: VectorCodec, vector_examples: Make) -> None:
    with pytest.raises(TooLarge) as caught:
        decode_examples(vector_codec, vector_examples(*[("a", [1.0])] * 4), Limits(examples=3))
    assert caught.value.code == "too-many-examples"


def test_a_label_of_10000_characters_is_refused(vector_codec: VectorCodec, vector_examples: Make) -> None:
    raws = vector_examples(("cat", [1.0]), ("x" * 10_000, [2.0]))
    with pytest.raises(LabelTooLong) as caught:
        parse_support(vector_codec, raws, LIMITS)
    assert isinstance(caught.value, Invalid)
    assert caught.value.faults[0].pointer == "/support/1/label"
    assert len(caught.value.detail) < 200


@pytest.mark.parametrize("label", ["", " ", "\u3000\u200b", "a\nb", "a\0", "\x7f", "a\u2028b", "\ud800", "\u200d"])
def test_labels_without_anything_visible_or_with_control_characters_are_refused(label: str) -> None:
    with pytest.raises(BadLabel) as caught:
        normalise_label(label, LIMITS, "/l")
    assert caught.value.faults[0].pointer == "/l"
    caught.value.detail.encode()


@pytest.mark.parametrize("label", ["חתול", "قطة", "😀", "👩‍👩‍👧", "a/b~c", "לא\u200fabc", "naïve", "0"])
def test_right_to_left_and_emoji_labels_work(vector_codec: VectorCodec, vector_examples: Make, label: str) -> None:
    parsed = parse_support(vector_codec, vector_examples((label, [1.0]), ("zebra", [2.0])), LIMITS)
    assert set(parsed.labels) == {label, "zebra"}


def test_bad_labels_are_all_pointed_at(vector_codec: VectorCodec, vector_examples: Make) -> None:
    raws = vector_examples(("", [1.0]), ("cat", [2.0]), ("y" * 999, [1.0]), ("\n", [1.0]))
    with pytest.raises(Invalid) as caught:
        parse_support(vector_codec, raws, LIMITS)
    assert [(fault.pointer, fault.code) for fault in caught.value.faults] == [
        ("/support/0/label", "invalid-label"),
        ("/support/2/label", "label-too-long"),
        ("/support/3/label", "invalid-label"),
    ]


def test_a_nan_and_mixed_sizes_in_a_support_are_pointed_at(vector_codec: VectorCodec, vector_examples: Make) -> None:
    with pytest.raises(Invalid) as caught:
        parse_support(vector_codec, vector_examples(("a", [1.0]), ("b", [float("nan")])), LIMITS)
    assert caught.value.faults[0].pointer == "/support/1/vector/0"
    with pytest.raises(Invalid) as caught:
        parse_support(vector_codec, vector_examples(("a", [1.0]), ("b", [2.0]), ("b", [1.0, 2.0])), LIMITS)
    assert (caught.value.code, caught.value.faults[0].pointer) == ("vector-size", "/support/2/vector")


def test_pointers_are_escaped() -> None:
    assert pointer("support", "a/b~c", 0) == "/support/a~1b~0c/0"


def test_example_ids_are_of_label_and_content() -> None:
    ids = {example_id(label, sha256) for label in ("a", "b") for sha256 in ("00", "11")}
    assert len(ids) == 4
    assert all(len(one) == 27 and one.startswith("ex_") for one in ids)


@given(st.text(max_size=250))
def test_any_label_is_kept_in_normal_form_or_an_error_of_ours(label: str) -> None:
    try:
        normal = normalise_label(label, LIMITS, "/l")
    except ImprintError:
        return
    assert normal == unicodedata.normalize("NFC", label)
    assert normalise_label(normal, LIMITS, "/l") == normal
