"""The scores on the cards of the bundled checkpoints, measured again: `python -m benchmarks.cards text-minilm`.

Each learner runs with the card's own settings, beside the number that the card holds now. `--write` puts the
measured rows into `card.json`. Every number is inductive.

- Photographs: episodes of clothing, the support from its train part, the queries from its test part.
- Texts: one support set of all intents, the published `train_5` or `train_10`, and every sentence of `test`.
- Glyphs: as the recipe's `[[tests]]` say, by the same code that judged the checkpoint after its training. The
  drawings are arrays of the network's own size already, so no image file is decoded.
"""

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Final

import torch

from app.checkpoints.card import CARD_FILE, card_to_json, read_card
from app.config import bundled_models
from app.core.episode import TaskState
from app.services.catalogue import Candidate, Catalogue
from app.training import datasets
from app.training.evaluate import Accuracy
from app.training.publish import judge_on_test
from app.training.recipe import Judging, read_recipe
from benchmarks import data
from benchmarks.features import Embedded, catalogue_of, embedded_examples, embedded_queries, share_right
from benchmarks.table import Row, arguments, mean_interval, show

PHOTO, TEXT, GLYPH, VECTOR = "photo-efficientnet-lite0", "text-minilm", "glyph-conv4-protonet", "vector-identity"
INTENTS: Final = {"clinc150": "CLINC150", "hwu64": "HWU64"}
SEED, EPISODES, WAY, QUERIES = 0, 600, 5, 15


@dataclass(frozen=True)
class Score:
    """A row of a card's `scores`, its keys in the card's order; accuracies are fractions of 1."""

    dataset: str
    way: int
    shot: int
    learner: str
    accuracy: float
    interval_95: float
    episodes: int
    seed: int
    transductive: bool
    external_pretraining: str | None

    @property
    def measure(self) -> tuple[str, int, int, str]:
        """What was measured, without the outcome."""
        return self.dataset, self.way, self.shot, self.learner


def photographs(shots: Sequence[int] = (1, 5), episodes: int = EPISODES) -> Iterator[Score]:
    """Episodes of clothing; all learners see the same ones."""
    catalogue = catalogue_of(PHOTO)
    train, test = (embedded_examples(catalogue.kit(PHOTO), data.clothing(part)) for part in ("train", "test"))
    dataset = f"clothing ({train.way} classes; support from train, queries from test)"
    learners = _learners(catalogue, PHOTO)
    for shot in shots:
        generator = torch.Generator().manual_seed(SEED)
        found: dict[str, list[float]] = {one.name: [] for one in learners}
        for _ in range(episodes):
            support, queries = _episode(train, test, shot, generator)
            for one in learners:
                state = _fitted(one, support)
                found[one.name].append(share_right(one, state, queries.features, queries.labels))
        for name, shares in found.items():
            mean, half = mean_interval(shares)
            yield _score(dataset, WAY, shot, name, mean, half, episodes, "ImageNet-1k")


def intents(
    sets: Sequence[str] = tuple(INTENTS), shots: Sequence[int] = (5, 10), only: str | None = None
) -> Iterator[Score]:
    """All intents at once, a published support set and all test sentences; `only` this learner where named."""
    catalogue = catalogue_of(TEXT)
    kit, learners = catalogue.kit(TEXT), _learners(catalogue, TEXT)
    for name in sets:
        sentences = data.sentences(name, "test")
        queries = embedded_queries(kit, [text for text, _ in sentences])
        for shot in shots:
            part = f"train_{shot}"
            support = embedded_examples(kit, data.sentences(name, part))
            wanted = torch.tensor([support.names.index(label) for _, label in sentences])
            dataset = f"{INTENTS[name]} ({part} to test, {len(sentences):,} sentences)"
            for one in learners:
                if only in (None, one.name):
                    share = share_right(one, _fitted(one, support), queries, wanted)
                    half = 1.96 * math.sqrt(share * (1 - share) / len(sentences))
                    pretraining = "1.17 billion sentence pairs (all-MiniLM-L6-v2)"
                    yield _score(dataset, support.way, shot, one.name, share, half, 1, pretraining)


def glyphs() -> Iterator[Score]:
    """The recipe's own tests on the test classes, with the learners as the card sets them now."""
    checkpoint = catalogue_of(GLYPH).kit(GLYPH).checkpoint
    with as_file(files("app.training") / "recipes" / f"{GLYPH}.toml") as path:
        recipe = read_recipe(path)
    recipe = replace(recipe, card=replace(recipe.card, learners=checkpoint.card.learners))
    pool = datasets.load(recipe.data.name, data.data_dir(), recipe.data.test)
    return (_as_score(row) for row in judge_on_test(recipe, checkpoint.backbone, pool, _unheard))


def vectors() -> Iterator[Score]:
    """Nothing: there are no weights to judge."""
    return iter(())


MEASURES: Final[dict[str, Callable[[], Iterator[Score]]]] = {
    GLYPH: glyphs,
    PHOTO: photographs,
    TEXT: intents,
    VECTOR: vectors,
}


def stored(name: str) -> list[Score]:
    """The rows that the checkpoint's card holds."""
    return [_as_score(dict(row)) for row in read_card(_card_path(name)).scores]


def compared(name: str, measured: Sequence[Score], before: Sequence[Score]) -> list[Row]:
    """Rows of the table: what was measured, with what the card says of the same in the note."""
    said = {score.measure: score for score in before}
    rows = []
    for score in measured:
        label = f"{name}: {score.dataset.split(' (')[0]} {score.way}-way {score.shot}-shot, {score.learner}"
        old = said.get(score.measure)
        note = "not on the card"
        if old is not None:
            note = f"card {100 * old.accuracy:.2f} +- {100 * old.interval_95:.2f}"
            note += f", now {100 * (score.accuracy - old.accuracy):+.2f}"
        rows.append(Row(label, 100 * score.accuracy, "%", interval_95=100 * score.interval_95, note=note))
    return rows


def write(name: str, measured: Sequence[Score]) -> None:
    """Put the rows into the card, in place of all that it has."""
    path = _card_path(name)
    card = replace(read_card(path), scores=tuple(asdict(score) for score in measured))
    path.write_text(card_to_json(card), encoding="utf-8")


def main() -> None:
    """Measure the named checkpoints."""
    parser = arguments(__doc__ or "")
    parser.add_argument("names", nargs="*", default=list(MEASURES), choices=[*MEASURES, []], help="which checkpoints")
    parser.add_argument("--write", action="store_true", help="put the measured rows into the cards")
    options = parser.parse_args()
    rows: list[Row] = []
    for name in options.names:
        measured = list(MEASURES[name]())
        rows += compared(name, measured, stored(name))
        if options.write:
            write(name, measured)
            sys.stderr.write(f"wrote {len(measured)} rows into the card of {name}\n")
    show("Scores on the cards of the bundled checkpoints (inductive)", rows, options.json)


def _learners(catalogue: Catalogue, name: str) -> list[Candidate]:
    kit = catalogue.kit(name)
    return [catalogue.candidate(kit, learner, {}) for learner in kit.checkpoint.card.learners]


@torch.no_grad()
def _fitted(candidate: Candidate, support: Embedded) -> TaskState:
    return candidate.learner.fit(support.features, support.labels, support.way)


def _episode(train: Embedded, test: Embedded, shot: int, generator: torch.Generator) -> tuple[Embedded, Embedded]:
    """The support and up to `QUERIES` queries a class, of `WAY` classes chosen at random."""
    classes = torch.randperm(train.way, generator=generator)[:WAY].tolist()
    return _part(train, classes, shot, generator), _part(test, classes, QUERIES, generator)


def _part(examples: Embedded, classes: Sequence[int], most: int, generator: torch.Generator) -> Embedded:
    """Up to `most` examples of each of the classes, which are numbered anew."""
    rows = []
    for label in classes:
        own = (examples.labels == label).nonzero()[:, 0]
        rows.append(own[torch.randperm(len(own), generator=generator)[:most]])
    labels = torch.arange(len(classes)).repeat_interleave(torch.tensor([len(one) for one in rows]))
    return Embedded(examples.features[torch.cat(rows)], labels, tuple(examples.names[label] for label in classes))


def _score(
    dataset: str, way: int, shot: int, learner: str, share: float, half: float, episodes: int, pretraining: str
) -> Score:
    return Score(dataset, way, shot, learner, round(share, 4), round(half, 4), episodes, SEED, False, pretraining)


def _as_score(row: dict[str, Any]) -> Score:
    return Score(**row)


def _unheard(learner: str, judging: Judging, accuracy: Accuracy) -> None:
    del learner, judging, accuracy


def _card_path(name: str) -> Path:
    return bundled_models() / name / CARD_FILE


if __name__ == "__main__":
    main()
