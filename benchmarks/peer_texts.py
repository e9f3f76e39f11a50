"""The texts of the rows that classify intents: draws of 20 classes of CLINC150, 8 texts and 20 queries of each.

No text of a support set is in two draws: where every contender makes many classifiers, none of them is one it has seen.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from app.checkpoints.load import Checkpoint
from benchmarks import data
from benchmarks.scores import sibling_of

SET: Final = "clinc150"
WAY: Final = 20
SHOT: Final = 8
QUERIES: Final = 20
OTHERS: Final = (("hwu64", "all"), (SET, "valid"))

Example = tuple[str, str]
"""(text, label)."""


@dataclass(frozen=True)
class Draw:
    """A support set, and what is asked of a classifier that was made from it."""

    support: Sequence[Example]
    queries: Sequence[Example]

    @property
    def texts(self) -> list[str]:
        """Of the support set."""
        return [text for text, _ in self.support]

    @property
    def labels(self) -> list[str]:
        """Of the support set."""
        return [label for _, label in self.support]

    @property
    def asked(self) -> list[str]:
        """Texts of the queries."""
        return [text for text, _ in self.queries]

    def accuracy(self, answers: Sequence[str]) -> float:
        """Per cent of the queries that were answered rightly."""
        right = sum(answer == label for answer, (_, label) in zip(answers, self.queries, strict=True))
        return 100 * right / len(self.queries)


def draws(count: int, train: Sequence[Example] = (), test: Sequence[Example] = ()) -> list[Draw]:
    """The first `count`. The classes are shuffled and dealt in blocks of 20, then again with the next 8 texts of each.

    Ends with a sentence where IMPRINT_DATA is not set and no texts are given.
    Raises: `ValueError` where there are not so many.
    """
    shots = _by_label(train or data.sentences(SET, "train"))
    queries = _by_label(test or data.sentences(SET, "test"))
    names = sorted(shots)
    order = [names[index] for index in np.random.default_rng(0).permutation(len(names))]
    blocks = len(order) // WAY
    if count > blocks * (min(map(len, shots.values())) // SHOT):
        raise ValueError(f"There are no {count} draws without a text in two of them.")
    found = []
    for number in range(count):
        again, block = divmod(number, blocks)
        classes = order[block * WAY : (block + 1) * WAY]
        support = [(text, one) for one in classes for text in shots[one][again * SHOT : (again + 1) * SHOT]]
        found.append(Draw(support, [(text, one) for one in classes for text in queries[one][:QUERIES]]))
    return found


def others(count: int, number: int) -> list[str]:
    """Texts of no support set and no query, for the turns under load; those of another number are others.

    There are 13,000: once they are through, they come again.
    """
    unlike = {text for name, part in OTHERS for text, _ in data.sentences(name, part)}
    known = {text for part in ("train", "test") for text, _ in data.sentences(SET, part)}
    found = sorted(unlike - known)
    order = np.random.default_rng(0).permutation(len(found))
    return [found[index] for index in order.take(range(number * count, (number + 1) * count), mode="wrap")]


def checkpoint() -> Checkpoint:
    """What all run from: the text checkpoint that has not seen these classes, meta-trained on the other set alone."""
    found = sibling_of("text-minilm", SET)
    assert found is not None
    return found


def _by_label(examples: Sequence[Example]) -> dict[str, list[str]]:
    found = defaultdict(list)
    for text, label in examples:
        found[label].append(text)
    return found
