"""Where a run stands."""

from dataclasses import asdict, dataclass

from app.training.evaluate import Accuracy


@dataclass(frozen=True)
class Progress:
    """A validation: mean loss since the one before, accuracy on the validation classes, speed.

    `step` counts from 1 within the stage (from 0), `per_second` in the stage's `unit` ("episodes", "examples").
    `diverged` counts the training episodes since the validation before that were left out.
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
    diverged: int = 0

    def as_dict(self) -> dict[str, object]:
        """Plain JSON values, `diverged` where there were any; `progress_of` reads them back."""
        values = asdict(self)
        if not self.diverged:
            del values["diverged"]
        return values


def progress_of(raw: dict[str, object]) -> Progress:
    """Read back what `as_dict` gave."""
    values = dict(raw)
    accuracy = values.pop("validation")
    assert isinstance(accuracy, dict)  # noqa: S101 (it is written by us)
    return Progress(validation=Accuracy(**accuracy), **values)  # type: ignore[arg-type]
