"""Rows of mixed sizes: joined, measured, and cut into forwards."""

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from jaxtyping import Int64, Shaped
from torch import Tensor
from torch.nn.functional import pad

_MIXING = (1 / 8, 1 / 800)
"""What a position of a packed row costs by being there, and by each position that it is mixed with: in positions that
are computed as a whole. Between those of ONNX Runtime and OpenVINO (decision record 16)."""


def micro_batches(
    lengths: Int64[Tensor, "n axes"], most_examples: int, most_tokens: int, start_tokens: int, packed: bool = False
) -> tuple[Int64[Tensor, " n"], list[int]]:
    """Order rows of mixed lengths and cut them into forwards: (row indices, sizes of the cuts).

    Short rows come first, and a cut holds at most `most_examples` rows and `most_tokens` positions
    after padding to its longest row; a single longer row makes a cut of its own. A forward costs as much as
    `start_tokens` positions beside its own: rows are also parted where that saves more than it costs. Where rows
    are `packed`, their padding costs only where positions mix.
    """
    tokens = lengths.prod(1)
    order = tokens.argsort(stable=True)
    parting = _partings(tokens[order].numpy(), most_examples, most_tokens, start_tokens, packed)
    sizes = [0]
    longest = [0] * lengths.shape[1]
    for at, row in enumerate(lengths[order].tolist()):
        longest = [max(pair) for pair in zip(longest, row, strict=True)]
        positions = (sizes[-1] + 1) * prod(longest)
        if sizes[-1] and (sizes[-1] == most_examples or positions > most_tokens or at in parting):
            sizes.append(0)
            longest = row
        sizes[-1] += 1
    return order, sizes


def _partings(
    tokens: Int64[np.ndarray, " n"], most_examples: int, most_tokens: int, start_tokens: int, packed: bool
) -> set[int]:
    """Where rows, sorted by their positions, are best parted: the cheapest of all ways, padding and starts together."""
    sizes, counts = np.unique(tokens, return_counts=True)
    # Packed rows cost their own positions too, and those in any cut.
    row_costs = sizes * (_MIXING[0] + sizes * _MIXING[1]) if packed else sizes
    rows = np.concatenate([[0], counts.cumsum()])
    least, begins = np.zeros(len(sizes) + 1), [0]
    for end, (size, row_cost) in enumerate(zip(sizes, row_costs, strict=True), start=1):
        # All rows from each possible beginning up to here, computed at the length of the longest.
        together = rows[end] - rows[:end]
        starts = -(-together // max(1, min(most_examples, most_tokens // size)))
        costs = least[:end] + starts * start_tokens + together * row_cost
        begins.append(int(costs.argmin()))
        least[end] = costs[begins[-1]]
    found, at = set(), len(sizes)
    while at:
        at = begins[at]
        found.add(int(rows[at]))
    return found


def lengths_of(rows: Shaped[Tensor, "n ..."], axes: Sequence[int]) -> Int64[Tensor, "n axes"]:
    """How far each row reaches along each axis before only zeros come; at least 1."""
    filled = rows != 0
    reaches = []
    for axis in axes:
        others = [other for other in range(1, rows.ndim) if other != axis]
        along = filled.any(others) if others else filled
        positions = torch.arange(1, rows.shape[axis] + 1)
        reaches.append((along * positions).amax(1).clamp(min=1))
    return torch.stack(reaches, 1)


def trimmed(
    rows: Shaped[Tensor, "n ..."], axes: Sequence[int], lengths: Int64[Tensor, "n axes"], chosen: Int64[Tensor, " m"]
) -> Shaped[Tensor, "m ..."]:
    """The chosen rows, no longer than the longest of them."""
    picked = rows[chosen]
    for axis, longest in zip(axes, lengths[chosen].amax(0).tolist(), strict=True):
        picked = picked.narrow(axis, 0, longest)
    return picked


def places_of(rows: Int64[Tensor, "n size"]) -> Int64[Tensor, " m"]:
    """Where anything but 0 stands in the rows, flattened; the first place where nothing does."""
    found = rows.flatten().nonzero().squeeze(1)
    return found if len(found) else torch.zeros(1, dtype=torch.int64)


def cat_padded(parts: Sequence[Tensor], axes: Sequence[int]) -> Shaped[Tensor, "n ..."]:
    """All parts as one, zero-padded at the end along the axes."""
    if len(parts) == 1:
        return parts[0]
    target = {axis: max(part.shape[axis] for part in parts) for axis in axes}
    padded = []
    for part in parts:
        # `pad` counts from the last axis backwards, a pair (before, after) an axis.
        gaps = [(0, target.get(axis, part.shape[axis]) - part.shape[axis]) for axis in range(part.ndim)]
        padded.append(pad(part, [size for gap in reversed(gaps) for size in gap]))
    return torch.cat(padded)


def join(pieces: Sequence[Tensor]) -> Shaped[Tensor, "n ..."]:
    """The pieces one after the other; one alone is not copied."""
    return pieces[0] if len(pieces) == 1 else torch.cat(list(pieces))
