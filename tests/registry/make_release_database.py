"""Makes the database that a release leaves behind, for the tests of later releases.

Run once, with the code of the release, from the repository's root:
`PYTHONPATH=. python tests/registry/make_release_database.py 0.1.0` writes
`releases/0.1.0.sqlite` and, as `releases/0.1.0.json`, everything that the registry then says of it.
"""

import hashlib
import json
import shutil
import struct
import sys
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from app.registry.records import NewExample, NewPrediction, NewTask, NewVersion, Replay
from app.registry.repository import Registry

RELEASES = Path(__file__).parent / "releases"
MADE_AT = datetime(2026, 1, 1, 12, tzinfo=UTC)
SENTENCES = {
    "refund": ("I want my money back", "Please refund my last order"),
    "shipping": ("Where is my parcel?", "When will it arrive?"),
    "عربى 🐈": ("أين طردي؟",),
}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _example(label: str, sentence: str) -> NewExample:
    content = sentence.encode()
    sha256 = _sha256(content)
    return NewExample(
        id="ex_" + _sha256(label.encode() + b"\0" + sha256.encode())[:24],
        label=label,
        content_sha256=sha256,
        media_type="text/plain",
        size_bytes=len(content),
        features=struct.pack("<4f", *hashlib.sha256(content).digest()[:4]),
        content=content,
        truncated=False,
    )


def _version(examples: list[NewExample], new: list[NewExample], change: str, parent: int | None) -> NewVersion:
    labels = tuple(sorted({example.label for example in examples}))
    return NewVersion(
        change=change,
        parent=parent,
        backbone_sha256="b" * 64,
        learner="protonet",
        learner_settings={"temperature": 1.0},
        labels=labels,
        dim=4,
        selection={"chosen": "protonet", "reason": "the only one", "scores": {}},
        held_out={"method": "leave-one-out", "accuracy": 0.75, "examples": 4},
        warnings=({"code": "one-shot", "label": labels[-1]},) if parent else (),
        timing={"total_s": 0.125},
        state=save({"prototypes": np.arange(4 * len(labels), dtype=np.float32).reshape(-1, 4)}),
        example_ids=tuple(example.id for example in examples),
        new_examples=tuple(new),
    )


def _task(name: str) -> NewTask:
    return NewTask(name, "text-minilm", "text", "auto", {}, store_inputs=True)


def _fill(registry: Registry) -> None:
    """A live task with two versions and a prediction, a deleted task, an idempotency key."""
    examples = [_example(label, sentence) for label, sentences in SENTENCES.items() for sentence in sentences]
    first = examples[:4]
    task = registry.create_task(_task("tickets"), _version(first, first, "created", None))
    task = registry.add_version(task.id, _version(examples, examples[4:], "examples-added", 1), task.revision)
    query = b"My parcel is late"
    result = {"index": 0, "label": "shipping", "confidence": 0.875, "scores": [{"label": "shipping", "score": 0.875}]}
    registry.record_predictions([NewPrediction(task.id, 2, _sha256(query), "text/plain", query, result)])
    registry.delete_task(registry.create_task(_task("deleted"), _version(first, first, "created", None)).id)
    registry.idempotency.begin("a-key", "POST /v1/tasks", "1" * 64)
    registry.idempotency.finish("a-key", "POST /v1/tasks", Replay(201, {"ETag": task.etag}, b"{}"))


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    return value.isoformat() if isinstance(value, datetime) else str(value)


def dump(registry: Registry) -> object:
    """Everything that the registry serves, as plain JSON."""
    found = []
    for task in registry.tasks(limit=100).items:
        versions = registry.versions(task.id).items
        examples = [asdict(example) for example in registry.examples(task.id, task.active_version).items]
        predictions = registry.predictions(task.id).items
        blobs = [example["input_blob"] for example in examples] + [item.input_blob for item in predictions]
        found.append(
            {
                "task": asdict(task),
                "etag": task.etag,
                "versions": [asdict(version) for version in versions],
                "states": {version.number: registry.load_state(task.id, version.number) for version in versions},
                "examples": examples,
                "features": {
                    version.number: [asdict(item) for item in registry.example_features(task.id, version.number)]
                    for version in versions
                },
                "predictions": [asdict(prediction) for prediction in predictions],
                "inputs": {blob: registry.read_blob(blob) for blob in blobs},
                "found_by_label": {
                    label: [other.id for other in registry.tasks(label=label).items] for label in task.version.labels
                },
            }
        )
    return json.loads(json.dumps(found, default=_plain))


def main(release: str) -> None:
    """Write the two files of a release."""
    RELEASES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "imprint.sqlite"
        registry = Registry(f"sqlite:///{path}", Path(folder), clock=lambda: MADE_AT)
        registry.migrate()
        _fill(registry)
        text = json.dumps(dump(registry), ensure_ascii=False, indent=1)
        registry.close()
        shutil.copy(path, RELEASES / f"{release}.sqlite")
        (RELEASES / f"{release}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
