"""Ours beside one peer: a line with the ratio of each round, and below it what either took."""

import statistics
from collections.abc import Sequence
from typing import Literal

from benchmarks.rounds import median_row, ratios
from benchmarks.table import Row, mean_interval


def beside(
    title: str,
    peer: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    unit: str,
    better: Literal["higher", "lower"],
    note: str = "",
) -> list[Row]:
    """Three rows. The goal of the ratio, ours over theirs, is to be ahead: 1. The note says what is done."""
    over = f"{title}, ours over {peer}"
    if len(ours) == len(theirs) == 1:  # there was no second round to differ
        return [
            Row(over, ours[0] / theirs[0], "times", 1.0, better, note=note),
            Row("  ours", ours[0], unit, better=better),
            Row(f"  {peer}", theirs[0], unit, better=better),
        ]
    return [
        median_row(over, ratios(ours, theirs), "times", 1.0, better, note),
        median_row("  ours", ours, unit, better=better),
        median_row(f"  {peer}", theirs, unit, better=better),
    ]


def points_ahead(title: str, peer: str, ours: Sequence[float], theirs: Sequence[float], note: str = "") -> list[Row]:
    """Three rows of accuracies in per cent. The goal of the difference, in the mean of the rounds, is 0: no worse.

    Each round draws other classes, some easier than others, so only the difference has an interval.
    """
    gains = [one - other for one, other in zip(ours, theirs, strict=True)]
    gain, half = mean_interval(gains)
    chance = "" if abs(gain) > half else "may be chance"
    told = "; ".join(one for one in (chance, note) if one)
    return [
        Row(f"{title}, ours less {peer}", gain, "points", 0.0, "higher", half if len(gains) > 1 else None, told),
        Row("  ours", statistics.fmean(ours), "%"),
        Row(f"  {peer}", statistics.fmean(theirs), "%"),
    ]
