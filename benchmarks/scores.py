"""Accuracies of a checkpoint's learners, measured by the product's own path: rows as a card's `scores` has them."""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from app.checkpoints.load import Checkpoint
from app.codecs import codec_for
from app.core.episode import Support, TaskState
from app.core.limits import Limits
from app.learners._base import EmbeddingLearner, Learner
from app.services.catalogue import Kit
from app.training.data_section import Data
from app.training.evaluate import Accuracy
from app.training.parallel import Ranks
from app.training.publish import Learners, judge_on_test
from app.training.recipe import Judging
from app.training.sampler import Pool
from app.training.strict import section
from app.training.train_command import find_checkpoint
from benchmarks import data
from benchmarks.features import Embedded, draw, embedded_examples, embedded_queries
from benchmarks.table import mean_interval

INTENTS: Final = {"clinc150": "CLINC150", "hwu64": "HWU64"}
SIBLINGS: Final = Path(__file__).with_name("checkpoints")
TRANSFERS: Final = {"clinc150": "hwu64", "hwu64": "clinc150"}
TIMED_FITS: Final = 3
TELL_EVERY_S: Final = 10.0

Heard = Callable[[str], None]
"""Hears what is running, and what came of it."""


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


class Adapted(NamedTuple):
    """A score, and the seconds that the adaptation behind it took: the head alone, and embedding its support set."""

    score: Score
    head_s: float
    embed_s: float


@dataclass(frozen=True, eq=False)
class Watched(Pool):
    """A pool that says when an episode is drawn from it: learners that adapt weights take long for many."""

    drawn: Callable[[], None] = field(kw_only=True)

    def take(self, rows: Int64[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """As of any pool."""
        self.drawn()
        return super().take(rows)


def kit_of(checkpoint: Checkpoint) -> Kit:
    """A checkpoint with the codec that a server with default limits has."""
    return Kit(checkpoint, codec_for(checkpoint, Limits()))


def pretraining_of(checkpoint: Checkpoint) -> str | None:
    """What came in through weights of others, by the checkpoint's card."""
    found = next((one["external_pretraining"] for one in checkpoint.card.scores), None)
    return None if found is None else str(found)


def trained_on(checkpoint: Checkpoint, place: str) -> bool:
    """Whether the card's recipe trained on classes of the data set in the folder `place` ("text/clinc150")."""
    raw = checkpoint.card.recipe.get("data")
    return raw is not None and any(source.place == place for source, _ in section(Data, raw).splits_of("train"))


def sibling_of(name: str, judged: str) -> Checkpoint | None:
    """What the recipe of a checkpoint makes of the other set of intents alone, to be judged on this one.

    It lies in `benchmarks/checkpoints/`; None where there is none. Raises: as `find_checkpoint`.
    """
    folder = SIBLINGS / f"{name}-{TRANSFERS[judged]}"
    return find_checkpoint(str(folder), []) if folder.is_dir() else None


def episodes_of(
    checkpoint: Checkpoint, learners: Learners, pool: Pool, judgings: Sequence[Judging], title: str, heard: Heard
) -> list[Score]:
    """Judge by episodes of a pool, with the code that judges a checkpoint after its training; embeds once."""
    about, name = (title, pretraining_of(checkpoint)), checkpoint.card.name
    ranks = Ranks(device=pool.inputs.device)

    def done(learner: str, judging: Judging, accuracy: Accuracy) -> None:
        heard(f"{name}: {learner} {judging.way}-way {judging.shot}-shot {accuracy}")

    heads = {one: learner for one, learner in learners.items() if isinstance(learner, EmbeddingLearner)}
    rows = judge_on_test(heads, pool, judgings, about, done, ranks)
    for one in learners.keys() - heads.keys():
        for judging in judgings:
            told = _teller(f"{name}: {one} {judging.way}-way {judging.shot}-shot", judging.episodes, heard)
            watched = Watched(pool.inputs, pool.labels, pool.names, drawn=told)
            rows += judge_on_test({one: learners[one]}, watched, [judging], about, done, ranks)
    order = list(learners)
    return sorted((Score(**row) for row in rows), key=lambda score: order.index(score.learner))


def intents_of(
    checkpoint: Checkpoint, learners: Learners, sets: Sequence[str], shots: Sequence[int], heard: Heard
) -> Iterator[Adapted]:
    """All intents of a set at once: a published support set, and every sentence of its test part."""
    kit, pretraining = kit_of(checkpoint), pretraining_of(checkpoint)
    for name in sets:
        sentences = data.sentences(name, "test")
        heard(f"{checkpoint.card.name}: embedding {len(sentences):,} sentences of {INTENTS[name]}")
        queries = embedded_queries(kit, [text for text, _ in sentences])
        for shot in shots:
            started = time.perf_counter()
            support = embedded_examples(kit, data.sentences(name, f"train_{shot}"))
            embed_s = time.perf_counter() - started
            wanted = torch.tensor([support.names.index(label) for _, label in sentences])
            title = f"{INTENTS[name]} (train_{shot} to test, {len(sentences):,} sentences)"
            for one, learner in learners.items():
                state, head_s = _timed_fit(kit, learner, support)
                share = float((_guesses(kit, learner, state, queries) == wanted).double().mean())
                half = 1.96 * math.sqrt(share * (1 - share) / len(sentences))
                heard(f"{checkpoint.card.name}: {one} on {title} {100 * share:.2f} +- {100 * half:.2f} %")
                numbers = round(share, 4), round(half, 4)
                score = Score(title, support.way, shot, one, *numbers, 1, 0, False, pretraining)
                yield Adapted(score, head_s, embed_s)


def photographs_of(
    checkpoint: Checkpoint, learners: Learners, shots: Sequence[int], draws: int, seed: int, heard: Heard
) -> Iterator[Score]:
    """All classes of clothing at once: support sets drawn from its train part, every photograph of its test part."""
    kit = kit_of(checkpoint)
    heard(f"{checkpoint.card.name}: embedding the clothes")
    train = embedded_examples(kit, data.clothing("train"))
    test = data.clothing("test")
    queries = embedded_queries(kit, [photograph for photograph, _ in test])
    wanted = torch.tensor([train.names.index(label) for _, label in test])
    title = f"clothing ({train.way} classes; support from train, {len(test)} queries from test)"
    for shot in shots:
        for one, learner in learners.items():
            told = _teller(f"{checkpoint.card.name}: {one} {train.way}-way {shot}-shot", draws, heard)
            generator = torch.Generator().manual_seed(seed)
            shares = []
            for _ in range(draws):
                told()
                support = train.of(draw(train.labels, shot, generator))
                state = _fitted(kit, learner, support)
                shares.append(float((_guesses(kit, learner, state, queries) == wanted).double().mean()))
            mean, half = mean_interval(shares)
            heard(f"{checkpoint.card.name}: {one} {train.way}-way {shot}-shot {100 * mean:.2f} +- {100 * half:.2f} %")
            numbers = round(mean, 5), round(half, 5)
            yield Score(title, train.way, shot, one, *numbers, draws, seed, False, pretraining_of(checkpoint))


@torch.no_grad()
def _fitted(kit: Kit, learner: Learner[Any], support: Embedded) -> TaskState:
    if isinstance(learner, EmbeddingLearner):
        found: TaskState = learner.fit(support.features, support.labels, support.way)
        return found
    return learner.adapt(Support(kit.codec.stack(support.inputs), support.labels, support.way))


def _timed_fit(kit: Kit, learner: Learner[Any], support: Embedded) -> tuple[TaskState, float]:
    """The state, and the median of a few fits."""
    seconds = []
    for _ in range(TIMED_FITS):
        started = time.perf_counter()
        state = _fitted(kit, learner, support)
        seconds.append(time.perf_counter() - started)
    return state, statistics.median(seconds)


@torch.no_grad()
def _guesses(kit: Kit, learner: Learner[Any], state: TaskState, queries: Embedded) -> Int64[Tensor, " q"]:
    if isinstance(learner, EmbeddingLearner):
        scores: Tensor = learner.score(state, queries.features)
        return scores.argmax(1)
    step = learner.backbone.micro_batch_examples("cpu")
    parts = [queries.inputs[start : start + step] for start in range(0, len(queries.inputs), step)]
    return torch.cat([learner.logits(state, kit.codec.stack(part)).argmax(1) for part in parts])


def _teller(what: str, count: int, heard: Heard) -> Callable[[], None]:
    """Counts; says how far it is, every few seconds."""
    begun_s = told_s = time.monotonic()
    done = 0

    def tell() -> None:
        nonlocal done, told_s
        now_s = time.monotonic()
        if now_s - told_s >= TELL_EVERY_S:
            told_s = now_s
            left_s = (now_s - begun_s) / done * (count - done) if done else math.nan
            heard(f"{what}: {done:,} of {count:,} episodes, about {left_s:.0f} s left")
        done += 1

    return tell


def scores_on_card(rows: Sequence[Mapping[str, Any]]) -> list[Score]:
    """The rows of a card's `scores`."""
    return [Score(**row) for row in rows]
