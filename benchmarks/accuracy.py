"""Ours beside the papers: `python -m benchmarks.accuracy [--checkpoint NAME ...] [--learner NAME ...] [--episodes N]`.

For every checkpoint in `models/` (or a folder that `--checkpoint` names) and every learner on its card:

- 28x28 glyphs: Omniglot, Vinyals split, test classes, 5-way and 20-way 1-shot and 5-shot, 15 queries a class.
- 32x32 photographs: CIFAR-FS, test classes, 5-way 1-shot and 5-shot, 15 queries a class.
- Texts: CLINC150 and HWU64, all classes at once, from `train_5` and `train_10` to every sentence of `test`.
- Other photographs: the 10 classes of clothing, 1-shot and 5-shot, support sets drawn from train, all of test.

Every number of ours is inductive: an answer depends on the support set and on its own query alone. A paper's number is
marked *transductive* where batch normalisation saw the other queries. The goal of a row is the number of the learner's
own paper over the same network; rows named "best" have the goals for our best learner. For a text checkpoint that was
trained on the very set that judges it stands what its recipe makes of the other set alone (`benchmarks/checkpoints/`);
where there is no such one, it is marked, and is never the best. Intervals are over episodes; of texts, over sentences.
Learners that adapt weights are slow on a CPU: ask for fewer `--episodes` to have a first look.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from app.checkpoints.card import CARD_FILE
from app.checkpoints.load import Checkpoint
from app.config import bundled_models
from app.training import datasets
from app.training.data_section import Data
from app.training.publish import Learners, learners_of
from app.training.recipe import Judging
from app.training.train_command import find_checkpoint
from benchmarks import data
from benchmarks.papers import BEST, OTHERS, Measure, goal_of, paper_of, said
from benchmarks.scores import (
    INTENTS,
    TRANSFERS,
    Adapted,
    Score,
    episodes_of,
    intents_of,
    kit_of,
    photographs_of,
    sibling_of,
    trained_on,
)
from benchmarks.table import Row, arguments, show

TITLES: Final = {"omniglot": "Omniglot", "cifar_fs": "CIFAR-FS", "clothing": "Clothing", **INTENTS}
TESTS: Final = {"omniglot": ((5, 1), (5, 5), (20, 1), (20, 5)), "cifar_fs": ((5, 1), (5, 5))}
SHAPES: Final[Mapping[tuple[int | None, ...], str]] = {(1, 28, 28): "omniglot", (3, 32, 32): "cifar_fs"}
QUERIES: Final = 15
HEAD_GOAL_S: Final = 0.2
ENOUGH_EPISODES: Final = 600


@dataclass(frozen=True)
class Asked:
    """What was asked for. Without `learners`, all of a card."""

    learners: Sequence[str] = ()
    episodes: int = 1000
    seed: int = 7
    device: str = "cpu"

    def chosen(self, checkpoint: Checkpoint) -> Learners:
        """The learners of a checkpoint that are wanted."""
        served = learners_of(checkpoint)
        return {name: one for name, one in served.items() if not self.learners or name in self.learners}


@dataclass(frozen=True)
class Judged:
    """A measured accuracy, and on what; `own_classes`: on classes that what was judged was trained on."""

    checkpoint: Checkpoint
    dataset: str
    measure: Measure
    score: Score
    note: str = ""
    own_classes: bool = False


def set_of(checkpoint: Checkpoint) -> str | None:
    """What judges a checkpoint: a data set of images, "intents", or nothing."""
    card = checkpoint.card
    if card.modality == "image":
        return SHAPES.get(checkpoint.backbone.input_shape, "clothing")
    return "intents" if card.modality == "text" else None


def rows_of(checkpoint: Checkpoint, asked: Asked) -> Iterator[tuple[Judged, list[Row]]]:
    """The scores of a checkpoint, each with its rows."""
    found = set_of(checkpoint)
    if found == "intents":
        for name in INTENTS:
            judge, note, own = _text_judge(checkpoint, name)
            for one in intents_of(judge, asked.chosen(judge), [name], (5, 10), tell):
                judged = Judged(checkpoint, name, (None, one.score.shot), one.score, note, own)
                yield judged, [_row(judged), *_times(judged, one)]
    elif found == "clothing":
        chosen = asked.chosen(checkpoint)
        for score in photographs_of(checkpoint, chosen, (1, 5), asked.episodes, asked.seed, tell):
            judged = Judged(checkpoint, found, (None, score.shot), score)
            yield judged, [_row(judged)]
    elif found is not None:
        where, chosen = Data(found), asked.chosen(checkpoint)
        pool = datasets.load(where, data.data_dir(), "test", kit_of(checkpoint).codec).to(asked.device)
        for learner in chosen.values():
            learner.to(asked.device)
        judgings = [Judging(way, shot, asked.episodes, QUERIES, asked.seed) for way, shot in TESTS[found]]
        for score in episodes_of(checkpoint, chosen, pool, judgings, where.title("test"), tell):
            judged = Judged(checkpoint, found, (score.way, score.shot), score)
            yield judged, [_row(judged)]


def best_rows(judged: Sequence[Judged]) -> list[Row]:
    """The best learner of each measure that there is a goal for, among checkpoints that had not seen the classes."""
    rows = []
    for dataset, goals in BEST.items():
        for measure, goal in goals.items():
            fair = [one for one in judged if (one.dataset, one.measure) == (dataset, measure) and not one.own_classes]
            if fair:
                best = max(fair, key=lambda one: one.score.accuracy)
                name = f"best: {TITLES[dataset]} {_words(measure)}"
                note = f"{best.checkpoint.card.name}: {best.score.learner}" + (f", {best.note}" if best.note else "")
                others = ", ".join(
                    f"{paper.method} {paper.numbers[measure]:g} ({taken})" for paper, taken in OTHERS.get(dataset, ())
                )
                rows.append(_accuracy(name, best.score, goal, note, {"paper": others}))
    return rows


def tell(line: str) -> None:
    """On the standard error, so that the table stays clean."""
    sys.stderr.write(line + "\n")


def main() -> None:
    """Judge the named checkpoints."""
    options = _options()
    asked = Asked(options.learner, options.episodes, options.seed, options.device)
    names = options.checkpoint or sorted(path.parent.name for path in bundled_models().glob(f"*/{CARD_FILE}"))
    judged: list[Judged] = []
    rows: list[Row] = []
    for name in names:
        for one, its_rows in rows_of(find_checkpoint(name, [bundled_models()]), asked):
            judged.append(one)
            rows += its_rows
    rows += best_rows(judged)
    few = "" if options.episodes >= ENOUGH_EPISODES else f", fewer than {ENOUGH_EPISODES}: a first look"
    title = f"Accuracy (inductive), {options.episodes:,} episodes, seed {options.seed}{few}"
    show(title, rows, options.json)


def _options() -> argparse.Namespace:
    parser = arguments(__doc__ or "")
    parser.add_argument("--checkpoint", nargs="+", default=[], help="names in models/, or folders; all when left out")
    parser.add_argument("--learner", nargs="+", default=[], help="which of a card's learners; all when left out")
    parser.add_argument("--episodes", type=int, default=1000, help="episodes, or draws of the support set")
    parser.add_argument("--seed", type=int, default=7, help="of the episodes")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="for glyphs and 32x32")
    return parser.parse_args()


def _text_judge(checkpoint: Checkpoint, name: str) -> tuple[Checkpoint, str, bool]:
    """What stands for a checkpoint on a set of intents, what to say of it, and whether it has seen the classes."""
    if not trained_on(checkpoint, f"text/{name}"):
        return checkpoint, "", False
    sibling = sibling_of(checkpoint.card.name, name)
    if sibling is None:
        return checkpoint, "trained on these classes", True
    return sibling, f"by the same recipe, trained on {INTENTS[TRANSFERS[name]]} alone", False


def _row(judged: Judged) -> Row:
    score, card = judged.score, judged.checkpoint.card
    columns = {
        "paper": said(paper_of(judged.dataset, card, score.learner), judged.measure),
        "external pretraining": score.external_pretraining or "none",
    }
    goal = goal_of(judged.dataset, card, score.learner, judged.measure)
    name = f"{card.name}: {TITLES[judged.dataset]} {_words((score.way, score.shot))}, {score.learner}"
    return _accuracy(name, score, goal, judged.note, columns)


def _accuracy(name: str, score: Score, goal: float | None, note: str, columns: Mapping[str, str]) -> Row:
    return Row(name, 100 * score.accuracy, "%", goal, "higher", 100 * score.interval_95, note, columns)


def _times(judged: Judged, adapted: Adapted) -> list[Row]:
    name = f"  adapts in, {TITLES[judged.dataset]} {judged.score.shot}-shot, {judged.score.learner}"
    note = f"the head; embedding the support set took {adapted.embed_s:.2g} s before"
    return [Row(name, adapted.head_s, "s", HEAD_GOAL_S, "lower", note=note)]


def _words(measure: Measure) -> str:
    way, shot = measure
    return f"{shot}-shot" if way is None else f"{way}-way {shot}-shot"


if __name__ == "__main__":
    main()
