"""How long the registry is held for one write: a registry of its own on the same disk, one write after the other."""

import statistics
import time
from pathlib import Path
from typing import Final

from app.registry.records import NewExample, NewPrediction, NewTask, NewVersion
from app.registry.repository import Registry

WRITES: Final = 60


def write_seconds(folder: Path) -> float:
    """What a write of a recorded prediction takes, which is safe on the disk after each: a quarter took less."""
    folder.mkdir(parents=True)
    registry = Registry(f"sqlite:///{folder / 'imprint.sqlite'}", folder)
    try:
        registry.migrate()
        task = _task(registry)
        took = []
        for number in range(WRITES):
            row = NewPrediction(
                task_id=task, version=1, input_sha256=f"{number:064x}", media_type="", content=None, result={}
            )
            began_s = time.perf_counter()
            registry.record_predictions([row])
            took.append(time.perf_counter() - began_s)
        return statistics.quantiles(took, n=4)[0]
    finally:
        registry.close()


def _task(registry: Registry) -> str:
    """A task for the predictions to belong to."""
    examples = tuple(
        NewExample(f"exm_{label}", label, label * 64, "", 0, bytes(4), None, truncated=False) for label in ("a", "b")
    )
    version = NewVersion(
        change="created",
        parent=None,
        backbone_sha256="0" * 64,
        learner="protonet",
        learner_settings={},
        labels=("a", "b"),
        dim=1,
        selection=None,
        held_out=None,
        warnings=(),
        timing={},
        state=b"",
        example_ids=tuple(one.id for one in examples),
        new_examples=examples,
    )
    task = NewTask(None, "none", "vector", "protonet", {}, store_inputs=False)
    return registry.create_task(task, version).id
