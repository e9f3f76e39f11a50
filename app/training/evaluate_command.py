"""What `imprint evaluate` does: judge a checkpoint's learners on episodes of a data set's split."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from app.checkpoints.load import Checkpoint
from app.codecs import codec_for
from app.core.errors import ImprintError
from app.core.limits import Limits
from app.training import datasets
from app.training.curves import scores_table
from app.training.data_section import Data
from app.training.embedding import placed
from app.training.errors import BadRecipe
from app.training.evaluate import Accuracy
from app.training.parallel import connected
from app.training.publish import Learners, judge_on_test, learners_of
from app.training.recipe import Judging
from app.training.resume import write_whole
from app.training.sampler import Pool
from app.training.train_command import find_checkpoint


@dataclass(frozen=True)
class Options:
    """What the command was told; every `way` goes with every `shot`. Without `learners`, all of the card."""

    checkpoint: str
    data: Path
    dataset: str
    folder: str = ""
    settings: Mapping[str, object] = field(default_factory=dict)
    split: str = "test"
    models: Sequence[Path] = ()
    learners: Sequence[str] = ()
    ways: Sequence[int] = (5,)
    shots: Sequence[int] = (1, 5)
    queries: int = 15
    episodes: int = 600
    seed: int = 1
    device: str = "auto"
    threads: int | None = None
    json_file: Path | None = None


def main(options: Options) -> int:
    """Run the command; returns the exit status."""
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    try:
        rows = _judged(options)
    except (ImprintError, OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if options.json_file is not None:
        write_whole(options.json_file, (json.dumps(rows, indent=2) + "\n").encode())
    _show(rows)
    return 0


def parsed_settings(pairs: Sequence[str]) -> dict[str, object]:
    """Settings given as "key=value", the value as in JSON or else a string. Raises: `BadRecipe`."""
    found: dict[str, object] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise BadRecipe(f"A setting is given as key=value, not as {pair!r}.")
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found


def _judged(options: Options) -> list[Mapping[str, Any]]:
    checkpoint = find_checkpoint(options.checkpoint, options.models)
    data = Data(options.dataset, options.folder, options.settings, train="", validation="", test=options.split)
    judgings = [
        Judging(way, shot, options.episodes, options.queries, options.seed)
        for way, shot in product(options.ways, options.shots)
    ]
    with connected(options.device) as ranks:
        pool = placed(_pool(checkpoint, data, options), ranks.device)
        for one in judgings:
            datasets.require(pool, one.way, one.shot + one.queries, data.title("test"))
        checkpoint.backbone.to(ranks.device)
        chosen = {name: one.to(ranks.device) for name, one in _chosen(checkpoint, options).items()}
        pretraining = next((one["external_pretraining"] for one in checkpoint.card.scores), None)
        about = (data.title("test"), None if pretraining is None else str(pretraining))
        return judge_on_test(chosen, pool, judgings, about, _heard, ranks)


def _pool(checkpoint: Checkpoint, data: Data, options: Options) -> Pool:
    return datasets.load(data, options.data, "test", codec_for(checkpoint, Limits()))


def _chosen(checkpoint: Checkpoint, options: Options) -> Learners:
    served = learners_of(checkpoint)
    unknown = sorted(set(options.learners) - set(served))
    if unknown:
        raise BadRecipe(f"{checkpoint.card.name} does not serve {unknown}; it serves {', '.join(served)}.")
    return {name: one for name, one in served.items() if not options.learners or name in options.learners}


def _heard(learner: str, judging: Judging, accuracy: Accuracy) -> None:
    sys.stderr.write(f"{learner} {judging.way}-way {judging.shot}-shot {accuracy}\n")


def _show(rows: Sequence[Mapping[str, Any]]) -> None:
    """A table: drawn on a terminal, in Markdown elsewhere."""
    console = Console()
    if not console.is_terminal:
        sys.stdout.write(scores_table(rows))
        return
    table = Table("data", "learner", "way", "shot", "accuracy", "episodes")
    for row in rows:
        accuracy = Accuracy(row["accuracy"], row["interval_95"], row["episodes"])
        table.add_row(*map(str, (row["dataset"], row["learner"], row["way"], row["shot"], accuracy, row["episodes"])))
    console.print(table)
