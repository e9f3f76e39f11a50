"""From probabilities to what a person reads: the label, how sure, and the runners-up."""

from dataclasses import dataclass, replace
from typing import Final

from jaxtyping import Float
from torch import Tensor

FEW: Final = 256
"""So many scores are sorted sooner in Python than by torch."""


@dataclass(frozen=True)
class Prediction:
    """One input's answer. `scores` holds the best labels, best first; `confidence` is the first one's score."""

    index: int
    label: str
    confidence: float
    scores: tuple[tuple[str, float], ...]
    prediction_id: str | None = None

    def recorded(self, prediction_id: str) -> "Prediction":
        """The same, with the id it is stored under."""
        return replace(self, prediction_id=prediction_id)

    def as_json(self) -> dict[str, object]:
        """Plain values, as in the HTTP answer."""
        item: dict[str, object] = {
            "index": self.index,
            "label": self.label,
            "confidence": self.confidence,
            "scores": [{"label": label, "score": score} for label, score in self.scores],
        }
        if self.prediction_id is not None:
            item["prediction_id"] = self.prediction_id
        return item


def read_off(probabilities: Float[Tensor, "q way"], labels: tuple[str, ...], top_k: int) -> tuple[Prediction, ...]:
    """The `top_k` best labels of every row; of equal scores the earlier label comes first."""
    if probabilities.numel() <= FEW:
        rows = [_ranked(row, top_k) for row in probabilities.tolist()]
    else:
        values, columns = probabilities.sort(dim=-1, descending=True, stable=True)
        kept = min(top_k, len(labels))
        rows = list(zip(columns[:, :kept].tolist(), values[:, :kept].tolist(), strict=True))
    answers = []
    for index, (columns_of_row, scores) in enumerate(rows):
        named = tuple((labels[column], score) for column, score in zip(columns_of_row, scores, strict=True))
        answers.append(Prediction(index, named[0][0], named[0][1], named))
    return tuple(answers)


def _ranked(row: list[float], top_k: int) -> tuple[list[int], list[float]]:
    """The best columns of a row, best first, and their scores."""
    columns = sorted(range(len(row)), key=row.__getitem__, reverse=True)[:top_k]
    return columns, [row[column] for column in columns]
