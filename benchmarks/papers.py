"""What the papers report, and what we want to reach. All numbers are accuracies in percent on the test classes.

A number is *transductive* where batch normalisation took its statistics from the queries; ours never are.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from app.checkpoints.card import Card

Measure: TypeAlias = tuple[int | None, int]
"""Way and shot; no way where all classes of the set are told apart at once."""

WIDE: Final = [96, 192, 384, 512]
"""The filters of R2D2's wider conv4."""


FULL: Final = [64, 160, 320, 640]
"""The filters of the papers' ResNet-12."""


@dataclass(frozen=True)
class Paper:
    """The numbers of one method over one network."""

    method: str
    numbers: Mapping[Measure, float]
    transductive: bool = False


def _episodes(*values: float, ways: tuple[int, ...] = (5, 20)) -> dict[Measure, float]:
    """Numbers in the order of the papers' tables: 1-shot and 5-shot of each way."""
    return dict(zip([(way, shot) for way in ways for shot in (1, 5)], values, strict=True))


_PROTONET = "Snell et al. 2017"
_MAML = "Finn et al. 2017"

OMNIGLOT: Final[Mapping[str, Mapping[str, Paper]]] = {
    "conv4": {
        "maml": Paper(_MAML, _episodes(98.7, 99.9, 95.8, 98.9), transductive=True),
        "maml++": Paper("MAML++, Antoniou et al. 2019", _episodes(99.47, 99.93, 97.65, 99.33)),
        "protonet": Paper(_PROTONET, _episodes(98.8, 99.7, 96.0, 98.9)),
        "matching": Paper("Vinyals et al. 2016", _episodes(98.1, 98.9, 93.8, 98.5)),
        "reptile": Paper("Nichol et al. 2018", _episodes(95.39, 98.90, 88.14, 96.65)),
        "metasgd": Paper("Li et al. 2017", _episodes(99.53, 99.93, ways=(5,)), transductive=True),
        "anil": Paper("Raghu et al. 2020", _episodes(96.2, 98.0, ways=(20,)), transductive=True),
    }
}

CIFAR_FS: Final[Mapping[str, Mapping[str, Paper]]] = {
    "conv4": {
        "maml": Paper(_MAML + ", by Bertinetto et al.", _episodes(58.9, 71.5, ways=(5,)), transductive=True),
        "protonet": Paper(_PROTONET + ", by Bertinetto et al.", _episodes(55.5, 72.0, ways=(5,))),
    },
    "conv4, wider": {"ridge": Paper("R2D2, Bertinetto et al. 2019", _episodes(65.3, 79.4, ways=(5,)))},
    "resnet12": {
        "protonet": Paper(_PROTONET + ", by Lee et al.", _episodes(72.2, 83.5, ways=(5,))),
        "ridge": Paper("MetaOptNet-RR, Lee et al. 2019", _episodes(72.6, 84.3, ways=(5,))),
        "svm": Paper("MetaOptNet-SVM, Lee et al. 2019", _episodes(72.0, 84.2, ways=(5,))),
        "logistic": Paper("RFS-distill, Tian et al. 2020", _episodes(73.9, 86.9, ways=(5,))),
    },
}


def _shots(five: float, ten: float) -> dict[Measure, float]:
    return {(None, 5): five, (None, 10): ten}


CLINC150: Final[Mapping[str, Mapping[str, Paper]]] = {
    "minilm": {
        "logistic": Paper("frozen MiniLM, measured by us", _shots(86.8, 89.4)),
        "protonet": Paper("frozen MiniLM, measured by us", _shots(85.9, 87.5)),
    }
}

HWU64: Final[Mapping[str, Mapping[str, Paper]]] = {
    "minilm": {
        "logistic": Paper("frozen MiniLM, measured by us", _shots(75.9, 83.3)),
        "protonet": Paper("frozen MiniLM, measured by us", _shots(75.1, 81.1)),
    }
}

PAPERS: Final = {"omniglot": OMNIGLOT, "cifar_fs": CIFAR_FS, "clinc150": CLINC150, "hwu64": HWU64}

OTHERS: Final[Mapping[str, tuple[tuple[Paper, str], ...]]] = {
    "clinc150": (
        (Paper("USE + ConveRT", _shots(90.5, 93.3)), "seconds"),
        (Paper("DNNC", _shots(91.0, 93.8)), "minutes"),
        (Paper("CPFT", _shots(92.3, 94.2)), "minutes"),
        (Paper("ICDA", _shots(92.6, 94.8)), "hours"),
    ),
    "hwu64": (
        (Paper("USE + ConveRT", _shots(80.0, 85.8)), "seconds"),
        (Paper("DNNC", _shots(80.5, 84.7)), "minutes"),
        (Paper("CPFT", _shots(82.0, 87.1)), "minutes"),
        (Paper("ICDA", _shots(82.5, 87.4)), "hours"),
    ),
}
"""What others reach by other means than a head on a small encoder, and how long they take to adapt.

USE + ConveRT: two larger frozen encoders. DNNC fine-tunes RoBERTa. CPFT pretrains and fine-tunes. For ICDA a language
model writes more examples.
"""

BEST: Final[Mapping[str, Mapping[Measure, float]]] = {
    "omniglot": _episodes(99.5, 99.9, 97.7, 99.3),
    "cifar_fs": _episodes(74.0, 87.0, ways=(5,)),
    "clinc150": _shots(89.5, 92.0),
    "hwu64": _shots(79.0, 85.0),
}
"""What the best of our learners shall reach, over all checkpoints."""

_SLACK: Final = {("cifar_fs", "conv4"): 1.0, ("cifar_fs", "conv4, wider"): 1.0}
"""By how many points a learner may stay below its paper."""


def network_of(card: Card) -> str:
    """What the tables here call the network of a checkpoint."""
    settings = card.architecture_settings
    if card.architecture == "conv4" and list(settings.get("widths", ())) == WIDE:  # type: ignore[call-overload]
        return "conv4, wider"
    plain = settings.get("filters", 64) == 64 and list(settings.get("widths", ())) in ([], FULL)  # type: ignore[call-overload]
    convolutional = card.architecture in ("conv4", "resnet12")
    return card.architecture if plain or not convolutional else f"{card.architecture}, of another width"


def paper_of(dataset: str, card: Card, learner: str) -> Paper | None:
    """The paper of a learner on a data set, over the network of the checkpoint."""
    known = PAPERS.get(dataset, {}).get(network_of(card), {})
    rates = card.learners.get(learner, {}).get("learned_rates", False)
    paper = known.get("maml++") if learner == "maml" and rates else None
    return paper or known.get(learner)


def goal_of(dataset: str, card: Card, learner: str, measure: Measure) -> float | None:
    """What a learner shall reach: the number of its paper over the same network, where there is one."""
    paper = paper_of(dataset, card, learner)
    if paper is None or measure not in paper.numbers or dataset not in ("omniglot", "cifar_fs"):
        return None
    return round(paper.numbers[measure] - _SLACK.get((dataset, network_of(card)), 0.0), 2)


def said(paper: Paper | None, measure: Measure) -> str:
    """A paper's number, in words; empty where it has none."""
    if paper is None or measure not in paper.numbers:
        return ""
    marked = ", transductive" if paper.transductive else ""
    return f"{paper.numbers[measure]:g} ({paper.method}{marked})"
