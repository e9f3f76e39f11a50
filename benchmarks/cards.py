"""The scores on the cards of the bundled checkpoints, measured again: `python -m benchmarks.cards text-minilm`.

Each learner runs with the card's own settings, beside the number that the card holds now. `--write` puts the
measured rows into `card.json`. Every number is inductive.

- Photographs: episodes of clothing, the support from its train part, the queries from its test part.
- Texts: one support set of all intents, the published `train_5` or `train_10`, and every sentence of `test`; of each
  set by what the same recipe makes of the other.
- What was trained here on images: as the recipe's `[[tests]]` say, by the same code that judged the checkpoint after
  its training.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

import torch

from app.checkpoints.card import CARD_FILE, card_to_json, read_card
from app.checkpoints.load import Checkpoint
from app.config import bundled_models
from app.core.episode import TaskState
from app.services.catalogue import Candidate, Catalogue
from app.services.heads import on_embeddings
from app.training import datasets
from app.training.publish import learners_of
from app.training.train_command import find_checkpoint, find_recipe
from benchmarks import data
from benchmarks.features import Embedded, catalogue_of, embedded_examples, share_right
from benchmarks.scores import INTENTS, TRANSFERS, Score, episodes_of, intents_of, kit_of, scores_on_card, sibling_of
from benchmarks.table import Row, arguments, mean_interval, show

PHOTO: Final = "photo-efficientnet-lite0"
SEED, EPISODES, WAY, QUERIES = 0, 600, 5, 15


def names() -> list[str]:
    """The bundled checkpoints."""
    return sorted(path.parent.name for path in bundled_models().glob(f"*/{CARD_FILE}"))


def measured(name: str) -> list[Score]:
    """The scores of a bundled checkpoint, measured now."""
    if name == PHOTO:
        return list(photographs())
    checkpoint = find_checkpoint(name, [bundled_models()])
    if checkpoint.card.modality == "text":
        return list(transferred(name))
    return trained(checkpoint) if checkpoint.card.modality == "image" else []


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
    checkpoint: Checkpoint,
    sets: Sequence[str] = tuple(INTENTS),
    shots: Sequence[int] = (5, 10),
    only: str | None = None,
) -> Iterator[Score]:
    """All intents at once, a published support set and all test sentences; `only` this learner where named."""
    served = {name: one for name, one in learners_of(checkpoint).items() if only in (None, name)}
    return (one.score for one in intents_of(checkpoint, served, sets, shots, _tell))


def transferred(name: str) -> Iterator[Score]:
    """Each set of intents, judged by what the same recipe makes of the other set alone: `benchmarks/checkpoints/`.

    The bundled checkpoint was trained on both, so that neither can judge it.
    """
    for judged, trained_on in TRANSFERS.items():
        sibling = sibling_of(name, judged)
        assert sibling is not None
        for score in intents(sibling, [judged]):
            how = f"; by the same recipe, trained on {INTENTS[trained_on]} alone)"
            yield replace(score, dataset=score.dataset.removesuffix(")") + how)


def trained(checkpoint: Checkpoint) -> list[Score]:
    """The recipe's own tests on the test classes, with the learners as the card sets them now."""
    recipe = find_recipe(checkpoint.card.name)
    pool = datasets.load(recipe.data, data.data_dir(), "test", kit_of(checkpoint).codec)
    title = recipe.data.title("test")
    return episodes_of(checkpoint, learners_of(checkpoint), pool, recipe.tests, title, _tell)


def stored(name: str) -> list[Score]:
    """The rows that the checkpoint's card holds."""
    return scores_on_card(read_card(_card_path(name)).scores)


def compared(name: str, scores: Sequence[Score], before: Sequence[Score]) -> list[Row]:
    """Rows of the table: what was measured, with what the card says of the same in the note."""
    said = {score.measure: score for score in before}
    rows = []
    for score in scores:
        label = f"{name}: {score.dataset.split(' (')[0]} {score.way}-way {score.shot}-shot, {score.learner}"
        old = said.get(score.measure)
        note = "not on the card"
        if old is not None:
            note = f"card {100 * old.accuracy:.2f} +- {100 * old.interval_95:.2f}"
            note += f", now {100 * (score.accuracy - old.accuracy):+.2f}"
        rows.append(Row(label, 100 * score.accuracy, "%", interval_95=100 * score.interval_95, note=note))
    return rows


def write(name: str, scores: Sequence[Score]) -> None:
    """Put the rows into the card, in place of all that it has."""
    path = _card_path(name)
    card = replace(read_card(path), scores=tuple(asdict(score) for score in scores))
    path.write_text(card_to_json(card), encoding="utf-8")


def main() -> None:
    """Measure the named checkpoints."""
    parser = arguments(__doc__ or "")
    known = names()
    parser.add_argument("names", nargs="*", default=[], choices=[*known, []], help="which; all when left out")
    parser.add_argument("--write", action="store_true", help="put the measured rows into the cards")
    options = parser.parse_args()
    rows: list[Row] = []
    for name in options.names or known:
        found = measured(name)
        rows += compared(name, found, stored(name))
        if options.write:
            write(name, found)
            _tell(f"wrote {len(found)} rows into the card of {name}")
    show("Scores on the cards of the bundled checkpoints (inductive)", rows, options.json)


def _learners(catalogue: Catalogue, name: str) -> list[Candidate]:
    kit = catalogue.kit(name)
    return [catalogue.candidate(kit, learner, {}) for learner in kit.checkpoint.card.learners]


@torch.no_grad()
def _fitted(candidate: Candidate, support: Embedded) -> TaskState:
    return on_embeddings(candidate.learner).fit(support.features, support.labels, support.way)


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


def _tell(line: str) -> None:
    sys.stderr.write(line + "\n")


def _card_path(name: str) -> Path:
    return bundled_models() / name / CARD_FILE


if __name__ == "__main__":
    main()
