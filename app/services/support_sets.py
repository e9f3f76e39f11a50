"""Support sets on their way to a version: which examples, in which order, with which warnings."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from app.codecs import (
    Codec,
    DecodedExample,
    DecodedInput,
    RawExample,
    RawInput,
    check_counts,
    decode_examples,
    parse_support,
)
from app.core.errors import Conflict, TooFewLabels, TooLarge
from app.core.limits import Limits
from app.registry.records import ExampleFeatures, NewExample
from app.services.tensors import dump_features, load_features

ReadInputs: TypeAlias = Callable[[Collection[str]], Mapping[str, bytes]]
"""Stored inputs by their SHA-256."""

READ_AT_ONCE = 16
"""Photographs as they were sent take far more memory than what is decoded of them."""


class InputsNotStored(Conflict):
    """A learner that adapts weights needs the examples of before, and the task keeps none."""

    code = "inputs-not-stored"
    title = "The task keeps no inputs"

    def __init__(self, *, learner: str) -> None:
        super().__init__(
            f"The learner {learner!r} adapts on the examples themselves, and this task does not keep them "
            "(store_inputs: false), so it cannot be changed. Create the task again from all of its examples: with "
            "store_inputs: true, or with a learner that works on embeddings."
        )


class TooManyToAdapt(TooLarge):
    """More examples than a learner that adapts weights may get."""

    code = "too-many-to-adapt"
    title = "Too many examples for a learner that adapts weights"


@dataclass(frozen=True)
class Membership:
    """One example of a version: where its embedding lies, `known` rows first, then new ones."""

    example_id: str
    label: str
    content_sha256: str
    row: int


@dataclass(frozen=True, eq=False)
class SupportSet:
    """A whole support set in canonical order (content hash, then label), old and new examples together.

    The order in which examples came leaves no trace, so the same set always gives the same state. `inputs` are those
    of the new examples, `known` the embeddings of the others. `all_inputs` are those of all members, in their order,
    where they were asked for.
    """

    members: tuple[Membership, ...]
    new: tuple[DecodedExample, ...]
    inputs: Shaped[Tensor, "new ..."]
    known: Float[Tensor, "known dim"] | None
    truncated: int
    duplicates: int = 0
    all_inputs: Shaped[Tensor, "s ..."] | None = None

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The labels, by code point: column `i` of the logits is label `i`."""
        return tuple(sorted({one.label for one in self.members}))

    @cached_property
    def rows(self) -> Int64[Tensor, " s"]:
        """For each member its row among the known and then the new embeddings."""
        return torch.tensor([one.row for one in self.members], dtype=torch.int64)

    @cached_property
    def columns(self) -> Int64[Tensor, " s"]:
        """For each member the index of its label."""
        index = {label: column for column, label in enumerate(self.labels)}
        return torch.tensor([index[one.label] for one in self.members], dtype=torch.int64)

    def warnings(self) -> list[dict[str, str]]:
        """What the user should know of this set; a list of `code` and `detail`."""
        shots: dict[str, int] = {}
        contents: dict[str, int] = {}
        for one in self.members:
            shots[one.label] = shots.get(one.label, 0) + 1
            contents[one.content_sha256] = contents.get(one.content_sha256, 0) + 1
        single = sorted(label for label, shot in shots.items() if shot == 1)
        conflicts = sum(1 for count in contents.values() if count > 1)
        found = [
            (single, "one-shot", f"{len(single)} labels have a single example: {_some(single)}."),
            (conflicts, "conflicting-labels", f"{conflicts} examples stand under more than one label."),
            (self.duplicates, "duplicates", f"{self.duplicates} examples were already in the set and were left out."),
            (self.truncated, "truncated", f"{self.truncated} texts were longer than the backbone reads and were cut."),
        ]
        return [{"code": code, "detail": detail} for cause, code, detail in found if cause]


def fresh(
    codec: Codec, raws: Sequence[RawExample], limits: Limits, inputs: Sequence[DecodedInput] | None = None
) -> SupportSet:
    """The set of a new task, whose inputs may be decoded already. Raises what `parse_support` raises."""
    parsed = parse_support(codec, raws, limits, inputs)
    members = tuple(
        Membership(one.example_id, one.label, one.input.sha256, row) for row, one in enumerate(parsed.examples)
    )
    rows = parsed.support.inputs
    return SupportSet(members, parsed.examples, rows, None, parsed.truncated, parsed.duplicates, rows)


def extended(
    codec: Codec,
    known: Sequence[ExampleFeatures],
    raws: Sequence[RawExample],
    limits: Limits,
    read: ReadInputs | None = None,
    inputs: Sequence[DecodedInput] | None = None,
) -> SupportSet:
    """A version's examples with others added, which may be decoded already; those already there are not taken twice.

    `read` gets the stored inputs of the known ones, for a learner that needs them. Raises: what `decode_examples`
    raises, `TooManyExamples`, `TooManyLabels`.
    """
    added = decode_examples(codec, raws, limits, inputs)
    present = {one.id for one in known}
    new = [one for one in added if one.example_id not in present]
    labels = {one.label for one in known} | {one.label for one in new}
    check_counts(len(known) + len(new), len(labels), limits)
    return _merged(codec, known, new, len(raws), read)


def reduced(codec: Codec, kept: Sequence[ExampleFeatures], read: ReadInputs | None = None) -> SupportSet:
    """What is left of a version's examples. Raises: `TooFewLabels` where that is less than two labels."""
    return _merged(codec, kept, [], 0, read)


def check_adaptable(examples: int, limits: Limits) -> None:
    """Refuse a set that is too large for a learner that adapts weights. Raises `TooManyToAdapt`."""
    if examples > limits.weight_examples:
        raise TooManyToAdapt(
            f"A set of {examples} examples; a learner that adapts the backbone's weights takes "
            f"{limits.weight_examples} at most. Learners on embeddings take more.",
            pointer="/support",
        )


def _merged(
    codec: Codec,
    known: Sequence[ExampleFeatures],
    new: Sequence[DecodedExample],
    sent: int,
    read: ReadInputs | None,
) -> SupportSet:
    members = [Membership(one.id, one.label, one.content_sha256, row) for row, one in enumerate(known)]
    members += [
        Membership(one.example_id, one.label, one.input.sha256, len(known) + row) for row, one in enumerate(new)
    ]
    members.sort(key=lambda one: (one.content_sha256, one.label))
    way = len({one.label for one in members})
    if way < 2:
        raise TooFewLabels(way=way)
    truncated = sum(one.truncated for one in known) + sum(one.input.truncated for one in new)
    inputs = codec.stack([one.input.tensor for one in new]) if new else torch.empty(0)
    everything = None if read is None else _all_inputs(codec, members, known, new, read)
    return SupportSet(tuple(members), tuple(new), inputs, _matrix(known), truncated, sent - len(new), everything)


def _all_inputs(
    codec: Codec,
    members: Sequence[Membership],
    known: Sequence[ExampleFeatures],
    new: Sequence[DecodedExample],
    read: ReadInputs,
) -> Shaped[Tensor, "s ..."]:
    """The inputs of all members, in their order; those of before are decoded again from what was stored."""
    decoded: dict[str, Tensor] = {one.input.sha256: one.input.tensor for one in new}
    stored = list({one.content_sha256: one for one in known if one.content_sha256 not in decoded}.values())
    for at in range(0, len(stored), READ_AT_ONCE):
        some = stored[at : at + READ_AT_ONCE]
        contents = read([one.content_sha256 for one in some])
        for one in some:
            raw = RawInput("bytes", contents[one.content_sha256], f"/examples/{one.id}", one.media_type)
            decoded[one.content_sha256] = codec.decode(raw).tensor
    return codec.stack([decoded[one.content_sha256] for one in members])


def new_examples(
    examples: Sequence[DecodedExample], features: Float[Tensor, "new dim"], *, store_inputs: bool
) -> tuple[NewExample, ...]:
    """Examples as the registry takes them, each with its embedding."""
    return tuple(
        NewExample(
            id=one.example_id,
            label=one.label,
            content_sha256=one.input.sha256,
            media_type=one.input.media_type,
            size_bytes=len(one.input.content),
            features=dump_features(row),
            content=one.input.content if store_inputs else None,
            truncated=one.input.truncated,
        )
        for one, row in zip(examples, features, strict=True)
    )


def _matrix(known: Sequence[ExampleFeatures]) -> Float[Tensor, "known dim"] | None:
    if not known:
        return None
    return load_features([one.features for one in known], len(known[0].features) // 4)


def _some(names: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(repr(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
