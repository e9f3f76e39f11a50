"""Support sets on their way to a version: which examples, in which order, with which warnings."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from app.codecs import DecodedExample
from app.core.errors import TooFewLabels
from app.registry.records import ExampleFeatures, NewExample
from app.services.tensors import dump_features, load_features


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

    The order in which examples came leaves no trace, so the same set always gives the same state.
    """

    members: tuple[Membership, ...]
    new: tuple[DecodedExample, ...]
    known: Float[Tensor, "known dim"] | None
    truncated: int

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, by code point: column `i` of the logits is label `i`."""
        return tuple(sorted({one.label for one in self.members}))

    @property
    def rows(self) -> Int64[Tensor, " s"]:
        """For each member its row among the known and then the new embeddings."""
        return torch.tensor([one.row for one in self.members], dtype=torch.int64)

    @property
    def columns(self) -> Int64[Tensor, " s"]:
        """For each member the index of its label."""
        index = {label: column for column, label in enumerate(self.labels)}
        return torch.tensor([index[one.label] for one in self.members], dtype=torch.int64)

    def warnings(self, duplicates: int = 0) -> list[dict[str, str]]:
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
            (duplicates, "duplicates", f"{duplicates} examples were already in the set and were left out."),
            (self.truncated, "truncated", f"{self.truncated} texts were longer than the backbone reads and were cut."),
        ]
        return [{"code": code, "detail": detail} for cause, code, detail in found if cause]


def fresh(examples: Sequence[DecodedExample]) -> SupportSet:
    """The set of a new task."""
    return merged([], examples)


def merged(known: Sequence[ExampleFeatures], added: Sequence[DecodedExample]) -> SupportSet:
    """A version's examples with others added; those already there are not taken twice.

    Raises: `TooFewLabels` where less than two labels are left.
    """
    present = {one.id for one in known}
    new = tuple(one for one in added if one.example_id not in present)
    members = [Membership(one.id, one.label, one.content_sha256, row) for row, one in enumerate(known)]
    members += [
        Membership(one.example_id, one.label, one.input.sha256, len(known) + row) for row, one in enumerate(new)
    ]
    members.sort(key=lambda one: (one.content_sha256, one.label))
    way = len({one.label for one in members})
    if way < 2:
        raise TooFewLabels(way=way)
    truncated = sum(one.truncated for one in known) + sum(one.input.truncated for one in new)
    return SupportSet(tuple(members), new, _matrix(known), truncated)


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
