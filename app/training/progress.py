"""Where a run stands."""

from dataclasses import asdict, dataclass

from app.training.evaluate import Accuracy


@dataclass(frozen=True)
class Progress:
    """A validation: mean loss since the one before, accuracy on the validation classes, speed.

    `step` counts from 1 within the stage (from 0), `per_second` in the stage's `unit` ("episodes", "examples").
    """

    stage: int
    kind: str
    step: int
    steps: int
    loss: float
    validation: Accuracy
    learning_rate: float
    elapsed_s: float
    per_second: float
    unit: str

    def as_dict(self) -> dict[str, object]:
        """Plain JSON values; `progress_of` reads them back."""
        return asdict(self)


def progress_of(raw: dict[str, object]) -> Progress:
    """Read back what `as_dict` gave."""
    values = dict(raw)
    accuracy = values.pop("validation")
    assert isinstance(accuracy, dict)  # noqa: S101 (it is written by us)
    return Progress(validation=Accuracy(**accuracy), **values)  # type: ignore[arg-type]
