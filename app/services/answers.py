"""From probabilities to what a person reads: the label, how sure, and the runners-up."""

from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor


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
    values, columns = probabilities.sort(dim=-1, descending=True, stable=True)
    kept = min(top_k, len(labels))
    answers = []
    for index, (scores, indices) in enumerate(zip(values[:, :kept].tolist(), columns[:, :kept].tolist(), strict=True)):
        named = tuple((labels[column], score) for column, score in zip(indices, scores, strict=True))
        answers.append(Prediction(index, named[0][0], named[0][1], named))
    return tuple(answers)
