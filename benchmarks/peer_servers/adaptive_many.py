"""Many classifiers of adaptive-classifier in one process, in a dictionary: its server holds one, so a user would do so.

Each is made as its documentation says, from the name of the encoder; it has no way to share one. Asked by
`benchmarks.peer_rows.adaptive`: {name, folder, texts, labels} makes one, {name, queries} asks it.
"""

import importlib
import time
from typing import Any

from benchmarks.peer_servers.turns import resident_bytes, serve

CLASSIFIERS: dict[str, Any] = {}


def answer(message: dict[str, Any]) -> dict[str, object]:
    """One more classifier, or the answers of one."""
    name = message["name"]
    if "queries" in message:
        found = CLASSIFIERS[name].predict_batch(message["queries"], 1)
        return {"labels": [best[0][0] for best in found]}
    started_s = time.perf_counter()
    classifier = importlib.import_module("adaptive_classifier").AdaptiveClassifier(message["folder"])
    classifier.add_examples(message["texts"], message["labels"])
    CLASSIFIERS[name] = classifier
    return {"seconds": time.perf_counter() - started_s, "resident_bytes": resident_bytes()}


if __name__ == "__main__":
    serve(answer)
