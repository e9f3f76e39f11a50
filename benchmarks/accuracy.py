"""Accuracy on real data: `python -m benchmarks.accuracy clothing clinc150`.

Every number is inductive: an answer depends on the support set and on its own query alone.
"""

import statistics
import time
from collections.abc import Callable

import torch

from app.services.heads import AdaptHead
from benchmarks import data
from benchmarks.features import catalogue_of, draw, embedded_examples, share_right
from benchmarks.server import posted, running
from benchmarks.table import Row, arguments, mean_interval, show

SEEDS = 20
SHOT = 5
CHUNK = 500
NEAREST_MEAN = "protonet"


def clothing() -> list[Row]:
    """Ten classes, five examples each from train, all of test, twenty seeds; frozen photo backbone."""
    name = "photo-efficientnet-lite0"
    catalogue = catalogue_of(name)
    kit = catalogue.kit(name)
    train, test = (embedded_examples(kit, data.clothing(part)) for part in ("train", "test"))
    learners = ["auto", *kit.checkpoint.card.learners]
    found: dict[str, list[float]] = {learner: [] for learner in learners}
    chosen: dict[str, int] = {}
    for seed in range(SEEDS):
        support = draw(train.labels, SHOT, torch.Generator().manual_seed(seed))
        features, labels = train.features[support], train.labels[support]
        for learner in learners:
            adapted = AdaptHead(catalogue.candidates(kit, learner, {}), labels, train.way)(features)
            found[learner].append(share_right(adapted.candidate, adapted.state, test.features, test.labels))
            if learner == "auto":
                chosen[adapted.candidate.name] = chosen.get(adapted.candidate.name, 0) + 1
    rows = []
    for learner, values in found.items():
        mean, half = mean_interval([100 * one for one in values])
        note = f"seeds 0-{SEEDS - 1}, {len(test.labels)} queries each"
        if learner == "auto":
            note += ", chose " + ", ".join(f"{one} {count}x" for one, count in sorted(chosen.items()))
        rows.append(Row(f"clothing 10-way {SHOT}-shot, {learner}", mean, "%", None, "higher", half, note))
    gains = [100 * (one - other) for one, other in zip(found["auto"], found[NEAREST_MEAN], strict=True)]
    mean, half = mean_interval(gains)
    rows.append(Row("clothing, auto over nearest mean", mean, "points", 0.0, "higher", half, "paired by seed"))
    return rows


def clinc150() -> list[Row]:
    """All 150 intents, five examples each, all 4,500 test sentences, over HTTP."""
    support, queries = data.sentences("clinc150", "train_5"), data.sentences("clinc150", "test")
    examples = [{"label": label, "text": text} for text, label in support]
    rows = []
    with running(backbones="text-minilm", device="cpu") as client:
        posted(client, "/v1/classify", {"backbone": "text-minilm", "support": examples[:10], "inputs": ["warm up"]})
        for learner in ("auto", "logistic", "ridge", "protonet", "matching"):
            body = {"backbone": "text-minilm", "learner": learner, "support": examples}
            rounds = [_timed(lambda body=body: posted(client, "/v1/tasks", body)) for _ in range(3)]  # type: ignore[misc]
            task, timing = rounds[0][0], [one[0]["timing"] for one in rounds]
            seconds = statistics.median(one[1] for one in rounds)
            backbone = statistics.median((one["device_ms"] - one["head_ms"]) / one["total_ms"] for one in timing)  # type: ignore[index]
            right = 0
            for start in range(0, len(queries), CHUNK):
                part = queries[start : start + CHUNK]
                url = f"/v1/tasks/{task['id']}/predict"
                answer = posted(client, url, {"inputs": [text for text, _ in part], "top_k": 1})
                given: list[dict[str, object]] = answer["predictions"]  # type: ignore[assignment]
                right += sum(one["label"] == label for one, (_, label) in zip(given, part, strict=True))
            goal = 86.5 if learner == "auto" else None
            note = f"served by {task['learner']}" if learner == "auto" else ""
            rows.append(Row(f"clinc150 150-way 5-shot, {learner}", 100 * right / len(queries), "%", goal, note=note))
            if learner == "auto":
                rows.append(Row("clinc150 adaptation of 750 texts", seconds, "s", 5.0, "lower", note="median of 3"))
                rows.append(Row("clinc150 share of the backbone", 100 * backbone, "%", 90.0, note="median of 3"))
    return rows


def _timed(work: Callable[[], dict[str, object]]) -> tuple[dict[str, object], float]:
    started = time.perf_counter()
    return work(), time.perf_counter() - started


SETS = {"clothing": clothing, "clinc150": clinc150}


def main() -> None:
    """Run the named sets."""
    parser = arguments(__doc__ or "")
    parser.add_argument("sets", nargs="*", default=list(SETS), choices=[*SETS, []], help="which sets")
    options = parser.parse_args()
    rows = [row for name in options.sets for row in SETS[name]()]
    show("Accuracy of the bundled checkpoints (inductive)", rows, options.json)


if __name__ == "__main__":
    main()
