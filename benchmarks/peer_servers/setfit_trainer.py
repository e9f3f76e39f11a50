"""SetFit by its documented recipe, in its own environment, asked by `benchmarks.peer_rows.setfit`.

{folder, device, texts, labels, steps} trains from the weights in the folder; {queries} are predicted; {parts, least_s}
are predicted part after part until the seconds have passed.
"""

import importlib
import time
from itertools import cycle
from typing import Any, Final

from benchmarks.peer_servers.turns import serve, timed

BATCH: Final = 16
TRAINED: dict[str, Any] = {}


def train(message: dict[str, Any]) -> dict[str, object]:
    """Contrastive pairs for so many steps, then a logistic head; all else is as it comes."""
    setfit: Any = importlib.import_module("setfit")
    datasets: Any = importlib.import_module("datasets")
    labels = sorted(set(message["labels"]))
    model = setfit.SetFitModel.from_pretrained(message["folder"], labels=labels, device=message["device"])
    examples = datasets.Dataset.from_dict({"text": message["texts"], "label": message["labels"]})
    arguments = setfit.TrainingArguments(
        output_dir=message["scratch"],
        batch_size=BATCH,
        save_strategy="no",
        report_to="none",
        max_steps=message["steps"],
    )
    started_s = time.perf_counter()
    setfit.Trainer(model=model, args=arguments, train_dataset=examples).train()
    TRAINED["now"] = model
    return {"seconds": time.perf_counter() - started_s}


def rate(message: dict[str, Any]) -> float:
    """Predictions a second."""
    parts = message["parts"]
    source = cycle(parts)
    times_a_second, _ = timed(lambda: TRAINED["now"].predict(next(source)), message["least_s"])
    return times_a_second * len(parts[0])


def answer(message: dict[str, Any]) -> object:
    """Whatever is asked."""
    if "parts" in message:
        return rate(message)
    if "queries" in message:
        return [str(one) for one in TRAINED["now"].predict(message["queries"])]
    return train(message)


if __name__ == "__main__":
    serve(answer)
