"""How large a batch may be, so that what comes next does not wait long: a batch is not interrupted."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, final

BATCH_S: Final = 0.1
"""Seconds that a batch should take at most, as far as its size decides that."""

LEAST: Final = 4
"""Examples that a batch may always have."""

NO_BACKBONE: Final[Mapping[str, int]] = MappingProxyType({})


@final
class Budgets:
    """Examples that a batch may have, by backbone: `most`, or `enough` where a backbone gains nothing from more; and
    less than that where so many were seen to take too long."""

    def __init__(self, most: int, enough: Mapping[str, int] = NO_BACKBONE) -> None:
        self._most = most
        self._enough = enough
        self._budgets: dict[str, int] = {}

    def of(self, backbone: str) -> int:
        """What its next batch may have."""
        return self._budgets.get(backbone, self._most_of(backbone))

    def note(self, backbone: str, cost: int, seconds: float) -> None:
        """Learn from a batch. One that took too long makes the next ones smaller, a full one that did not larger."""
        budget = self.of(backbone)
        if seconds > BATCH_S and cost > LEAST:
            # At once, and never larger: a small batch that took long says that a large one takes longer.
            self._budgets[backbone] = min(budget, max(LEAST, int(cost * BATCH_S / seconds)))
        elif cost >= budget and seconds < BATCH_S / 2:
            self._budgets[backbone] = min(self._most_of(backbone), 2 * budget)

    def _most_of(self, backbone: str) -> int:
        return min(self._most, self._enough.get(backbone, self._most))
