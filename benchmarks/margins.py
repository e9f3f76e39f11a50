"""What `auto` gains over plain heads, and what a server makes of real data: `python -m benchmarks.margins clothing`.

Every number is inductive: an answer depends on the support set and on its own query alone.
"""

import statistics
import time
from collections import Counter
from collections.abc import Callable

import torch

from app import learners
from app.learners._base import EmbeddingLearner
from app.services.catalogue import Candidate
from app.services.heads import AdaptHead
from benchmarks import data
from benchmarks.features import catalogue_of, draw, embedded_examples, share_right
from benchmarks.server import posted, running
from benchmarks.table import Row, arguments, mean_interval, show

SEEDS = 20
MORE_SEEDS = 200
"""For the margins alone: twenty draws leave an interval as wide as the margin."""
SHOT = 5
CHUNK = 500
PLAIN = "nearest mean, raw embeddings"


def clothing() -> list[Row]:
    """Ten classes, five examples each from train, all of test; frozen photo backbone."""
    name = "photo-efficientnet-lite0"
    catalogue = catalogue_of(name)
    kit = catalogue.kit(name)
    train, test = (embedded_examples(kit, data.clothing(part)) for part in ("train", "test"))
    heads = {one: catalogue.candidates(kit, one, {}) for one in ["auto", *kit.checkpoint.card.learners]}
    plain = learners.build("protonet", kit.checkpoint.backbone, {})
    assert isinstance(plain, EmbeddingLearner)
    heads[PLAIN] = [Candidate("protonet", {}, plain, kit.checkpoint.sha256)]
    found: dict[str, list[float]] = {head: [] for head in heads}
    chosen: Counter[str] = Counter()
    for seed in range(MORE_SEEDS):
        support = draw(train.labels, SHOT, torch.Generator().manual_seed(seed))
        for head, candidates in heads.items():
            adapted = AdaptHead(candidates, train.labels[support], train.way)(train.features[support])
            share = share_right(adapted.candidate, adapted.state, test.features, test.labels)
            found[head].append(100 * share)
            if head == "auto" and seed < SEEDS:
                chosen[adapted.candidate.name] += 1
    rows = []
    for head, shares in found.items():
        mean, half = mean_interval(shares[:SEEDS])
        note = (
            "chose " + ", ".join(f"{one} {count}x" for one, count in sorted(chosen.items())) if head == "auto" else ""
        )
        rows.append(Row(f"clothing 10-way {SHOT}-shot, {head}", mean, "%", None, "higher", half, note))
    for other in (PLAIN, "protonet"):
        gains = [one - its for one, its in zip(found["auto"], found[other], strict=True)]
        for seeds in (SEEDS, MORE_SEEDS):
            mean, half = mean_interval(gains[:seeds])
            note = f"paired, seeds 0-{seeds - 1}, " + ("above 0" if mean > half else "may be chance")
            rows.append(Row(f"clothing, auto over {other}", mean, "points", None, "higher", half, note))
    return rows


def clinc150() -> list[Row]:
    """All 150 intents, five examples each, all 4,500 test sentences, over HTTP."""
    support, queries = data.sentences("clinc150", "train_5"), data.sentences("clinc150", "test")
    examples = [{"label": label, "text": text} for text, label in support]
    rows = []
    with running(backbones="text-minilm", device="cpu", engine__embedding_cache_bytes="0") as client:
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
            rows.append(Row(f"  adaptation of 750 texts, {learner}", seconds, "s", 5.0, "lower", note="median of 3"))
            rows.append(Row(f"  share of the backbone, {learner}", 100 * backbone, "%", 90.0, note="median of 3"))
    return rows


def _timed(work: Callable[[], dict[str, object]]) -> tuple[dict[str, object], float]:
    started = time.perf_counter()
    return work(), time.perf_counter() - started


SETS = {"clothing": clothing, "clinc150": clinc150}


def main() -> None:
    """Run the named sets."""
    parser = arguments(__doc__ or "")
    parser.add_argument("sets", nargs="*", default=[], choices=[*SETS, []], help="which sets; all when left out")
    options = parser.parse_args()
    rows = [row for name in options.sets or SETS for row in SETS[name]()]
    show("Margins on real data (inductive)", rows, options.json)


if __name__ == "__main__":
    main()
