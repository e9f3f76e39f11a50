"""Labelled examples to a support set: `parse_support` is the only maker of a `Support` from a request."""

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import torch

from app.codecs._base import MOST_FAULTS, Codec, DecodedInput, RawInput, decode_all, together
from app.codecs._errors import BadLabel, LabelTooLong, TooManyExamples, TooManyLabels
from app.codecs.pointer import shown
from app.core.episode import Support
from app.core.errors import ImprintError, TooFewLabels
from app.core.limits import Limits

_SUPPORT: Final = "/support"
# Control characters, surrogates, line and paragraph separators. Format characters (Cf) are let in:
# emoji are joined by them, and right-to-left scripts are steered by them.
_FORBIDDEN: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})
_INVISIBLE: Final = frozenset({"Cf", "Zs"})


@dataclass(frozen=True)
class RawExample:
    """One labelled input as it came; `label_pointer` is the JSON pointer to its label."""

    label: str
    raw: RawInput
    label_pointer: str


@dataclass(frozen=True, eq=False)
class DecodedExample:
    """One labelled input, decoded; `label` is normalised, `example_id` follows from label and content."""

    label: str
    input: DecodedInput
    example_id: str


@dataclass(frozen=True, eq=False)
class ParsedSupport:
    """A support set and what it was made from.

    `labels` are sorted by code point: class `i` is `labels[i]`. `examples` are in the order of the
    support's rows. `duplicates` examples were dropped as exact repetitions under their label; `conflicts` contents
    stand under two or more labels; `truncated` examples were longer than the backbone reads.
    """

    support: Support
    labels: tuple[str, ...]
    examples: tuple[DecodedExample, ...]
    duplicates: int
    conflicts: int
    truncated: int


def example_id(label: str, sha256: str) -> str:
    """The name of an example within its task: the same label and content have the same id."""
    return "ex_" + hashlib.sha256(f"{label}\0{sha256}".encode()).hexdigest()[:24]


def normalise_label(label: str, limits: Limits, pointer: str) -> str:
    """The label in Unicode's normal form C, so that one spelling is one label. White space is kept.

    Raises: `BadLabel` (nothing visible, control characters, lone surrogates), `LabelTooLong`.
    """
    if len(label) > limits.label_characters * 4:  # normalising shrinks, but never so much
        raise _too_long(label, limits, pointer)
    normal = unicodedata.normalize("NFC", label)
    if len(normal) > limits.label_characters:
        raise _too_long(normal, limits, pointer)
    categories = {unicodedata.category(character) for character in normal}
    if categories & _FORBIDDEN:
        raise BadLabel(f"The label {shown(label)} holds control characters or line breaks.", pointer=pointer)
    if categories <= _INVISIBLE:
        raise BadLabel("A label needs at least one visible character.", pointer=pointer)
    return normal


def check_labels(raws: Sequence[RawExample], limits: Limits) -> list[str]:
    """The normalised label of each example; counts are checked, and nothing is decoded.

    Raises: `TooManyExamples`, `TooManyLabels`, label errors.
    """
    check_counts(len(raws), len({example.label for example in raws}), limits)
    return _normalised(raws, limits)


def check_whole(raws: Sequence[RawExample], limits: Limits) -> list[str]:
    """`check_labels` of examples that are to be a support set by themselves. Raises: `TooFewLabels` too."""
    labels = check_labels(raws, limits)
    way = len(set(labels))
    if way < 2:
        raise TooFewLabels(way=way, pointer=_SUPPORT)
    return labels


def decode_examples(
    codec: Codec, raws: Sequence[RawExample], limits: Limits, inputs: Sequence[DecodedInput] | None = None
) -> list[DecodedExample]:
    """Decode labelled inputs; exact repetitions (same label, same content) collapse to one.

    Sorted by (sha256, label), so that the order in which examples came changes nothing. `inputs` are those of the
    examples where they are decoded already.
    Raises: what `check_labels` raises, before anything is decoded, and what `decode_inputs` raises.
    """
    return _decoded(codec, raws, check_labels(raws, limits), inputs)


def parse_support(
    codec: Codec, raws: Sequence[RawExample], limits: Limits, inputs: Sequence[DecodedInput] | None = None
) -> ParsedSupport:
    """Make a support set of labelled inputs, which may be decoded already.

    Raises: what `check_whole` raises, before anything is decoded, and what `decode_examples` raises.
    """
    normal = check_whole(raws, limits)
    labels = tuple(sorted(set(normal)))
    examples = tuple(_decoded(codec, raws, normal, inputs))
    index = {label: at for at, label in enumerate(labels)}
    support = Support(
        inputs=codec.stack([example.input.tensor for example in examples]),
        labels=torch.tensor([index[example.label] for example in examples], dtype=torch.int64),
        way=len(labels),
    )
    contents = [example.input.sha256 for example in examples]
    return ParsedSupport(
        support=support,
        labels=labels,
        examples=examples,
        duplicates=len(raws) - len(examples),
        conflicts=len({now for before, now in pairwise(contents) if before == now}),
        truncated=sum(example.input.truncated for example in examples),
    )


def _decoded(
    codec: Codec, raws: Sequence[RawExample], labels: Sequence[str], inputs: Sequence[DecodedInput] | None
) -> list[DecodedExample]:
    if inputs is None:
        inputs = decode_all(codec, [example.raw for example in raws])
    unique = {(item.sha256, label): item for item, label in zip(inputs, labels, strict=True)}
    return [DecodedExample(label, unique[sha256, label], example_id(label, sha256)) for sha256, label in sorted(unique)]


def check_counts(examples: int, way: int, limits: Limits) -> None:
    """Refuse a set over the limits. Raises: `TooManyExamples`, `TooManyLabels`."""
    if examples > limits.examples:
        raise TooManyExamples(f"A set of {examples} examples; the limit is {limits.examples}.", pointer=_SUPPORT)
    if way > limits.labels:
        raise TooManyLabels(f"A set of {way} labels; the limit is {limits.labels}.", pointer=_SUPPORT)


def _normalised(raws: Sequence[RawExample], limits: Limits) -> list[str]:
    known: dict[str, str] = {}
    errors: list[ImprintError] = []
    for example in raws:
        if example.label in known:
            continue
        try:
            known[example.label] = normalise_label(example.label, limits, example.label_pointer)
        except (BadLabel, LabelTooLong) as error:
            errors.append(error)
            if len(errors) == MOST_FAULTS:
                break
    if errors:
        raise together(errors)
    return [known[example.label] for example in raws]


def _too_long(label: str, limits: Limits, pointer: str) -> LabelTooLong:
    return LabelTooLong(
        f"A label has {len(label)} characters; the limit is {limits.label_characters}.", pointer=pointer
    )
