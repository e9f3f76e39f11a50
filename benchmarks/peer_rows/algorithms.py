"""Row (e): the algorithms alone, beside easyfsl and a loop of `higher`, on the same episodes and the same weights.

5-way 5-shot with 15 queries a class, a task at a time, from the support set to the queries' scores: prototypes and MAML
through the conv4 of the checkpoint of glyphs, prototypes and matching on its embeddings. Either side is called as a
library, in a process of its own. Omniglot's test classes where IMPRINT_DATA has them; elsewhere made-up glyphs. In the
end the scores of both are compared in float64: where they differ, no number is printed.
"""

import io
import os
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from app.checkpoints.load import Checkpoint, load, scan
from app.config import bundled_models
from app.training import datasets
from app.training.data_section import Data
from app.training.sampler import Pool, draw, episode_generator, to_episode
from benchmarks import data
from benchmarks.bodies import glyphs
from benchmarks.environments import TORCH, installed_versions, python_of
from benchmarks.meta_contenders import Model, Task
from benchmarks.peer_rows import PeerScope
from benchmarks.peer_rows.beside import beside
from benchmarks.peer_servers.episodes import EPISODES_FILE, WEIGHTS_FILE, Work
from benchmarks.pipe import Waiting
from benchmarks.rounds import tell
from benchmarks.scores import kit_of
from benchmarks.table import Row
from benchmarks.text_server import waiting

REQUIREMENTS: Final = (TORCH, "easyfsl==1.5.0", "higher==0.2.1", "safetensors")
CHECKPOINT: Final = "glyph-conv4-protonet"
PEER_MODULE: Final = "benchmarks.peer_servers.episodes"
OUR_MODULE: Final = "benchmarks.episodes_ours"
EPISODES: Final = 100
TOLERANCE: Final = 1e-6
SEED: Final = 0


class Disagreement(Exception):
    """Two contenders compute different scores."""


@dataclass(frozen=True)
class Rival:
    """An algorithm that a peer has too."""

    title: str
    peer: str
    work: Work
    note: str


RIVALS: Final = (
    Rival("prototypes, conv4", "easyfsl", Work("protonet"), "PrototypicalNetworks; 100 images through the network"),
    Rival("prototypes, embeddings", "easyfsl", Work("protonet", images=False), "PrototypicalNetworks; 64 numbers each"),
    Rival("matching, embeddings", "easyfsl", Work("matching", images=False), "MatchingNetworks; full context"),
    Rival("MAML, conv4", "higher", Work("maml"), "adaptation by 5 steps and prediction; no graph through the steps"),
)


@dataclass
class Found:
    """Episodes a second of the rounds, milliseconds of CPU of one; per cent of the answers that were right."""

    speeds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    accuracy: float = 0.0


def measure(scope: PeerScope) -> list[Row]:
    """One rival after the other; within each, turns."""
    python = python_of("algorithms", REQUIREMENTS, scope.cache)
    about = dict(zip(("easyfsl", "higher"), installed_versions(python, ["easyfsl", "higher"]).split(", "), strict=True))
    rows = []
    with tempfile.TemporaryDirectory(prefix="imprint-bench-") as folder, ExitStack() as stack:
        scratch = Path(folder)
        lay_out(scratch)
        sides = {
            "ours": stack.enter_context(Waiting(OUR_MODULE)),
            "theirs": stack.enter_context(waiting(python, PEER_MODULE, scratch)),
        }
        for rival in RIVALS:
            found = turns_of(rival, sides, scratch, scope)
            rows += rows_of(rival, found["ours"], found["theirs"], about[rival.peer])
    return rows


def turns_of(rival: Rival, sides: Mapping[str, Waiting], scratch: Path, scope: PeerScope) -> dict[str, Found]:
    """The rounds of one algorithm. Raises: `Disagreement`."""
    found = {side: Found() for side in sides}
    files = {side: scratch / f"{side}.safetensors" for side in sides}
    work = {**asdict(rival.work), "device": scope.device}
    least_s = scope.seconds / 4
    for side, process in sides.items():
        process.ask({"folder": str(scratch / kind_of(rival.work)), "work": work})
        found[side].accuracy = process.ask({"file": str(files[side])})
        process.ask({"least_s": least_s / 4})
    compare(rival, *(load_file(file)["scores"] for file in files.values()))
    for _ in range(scope.rounds):
        for side, process in sides.items():
            speed, cpu_s = process.ask({"least_s": least_s})
            found[side].speeds.append(speed)
            found[side].cpu.append(1000 * cpu_s)
        last = ", ".join(f"{side} {one.speeds[-1]:.1f}" for side, one in found.items())
        tell(f"algorithms: {rival.title}, episodes/s: {last}")
    return found


def compare(rival: Rival, ours: Tensor, theirs: Tensor) -> None:
    """Refuse scores that are not each other's, up to the tolerance. Raises: `Disagreement`."""
    off = float((ours - theirs).norm() / ours.norm())
    if ours.shape != theirs.shape or not off <= TOLERANCE:
        raise Disagreement(
            f"{rival.title}: the scores of ours and of {rival.peer} differ by {off:.2g} of their length."
        )


def rows_of(rival: Rival, ours: Found, theirs: Found, about: str) -> list[Row]:
    """Speeds, and the accuracy on the same episodes."""
    note = f"{rival.note}; {about}"
    speeds = beside(f"e {rival.title}", rival.peer, ours.speeds, theirs.speeds, "episodes/s", "higher", note)
    spent = beside(f"e {rival.title}, CPU an episode", rival.peer, ours.cpu, theirs.cpu, "ms", "lower")
    same = f"ours {ours.accuracy:.2f} %, {rival.peer} {theirs.accuracy:.2f} %, of {EPISODES} episodes; scores agree"
    return [
        *speeds,
        *spent,
        Row("  accuracy, ours less theirs", ours.accuracy - theirs.accuracy, "points", 0.0, note=same),
    ]


def kind_of(work: Work) -> str:
    """The folder of a work's episodes."""
    return "images" if work.images else "embeddings"


def lay_out(folder: Path, episodes: int = EPISODES) -> None:
    """Write the weights of the conv4 with a head that is at zero, the episodes, and the same ones embedded."""
    found = load(scan([bundled_models()])[CHECKPOINT])
    model = Model(RIVALS[0].work.way)
    torch.nn.init.zeros_(model.head.weight)
    torch.nn.init.zeros_(model.head.bias)
    weights = {**model.state_dict(), **found.backbone.state_dict()}
    pool = _pool(found)
    tasks = [_task(pool, RIVALS[0].work, number) for number in range(episodes)]
    for kind, ones in (("images", tasks), ("embeddings", [_embedded(found, one) for one in tasks])):
        (folder / kind).mkdir()
        save_file(weights, folder / kind / WEIGHTS_FILE)
        stacked = {name: torch.stack(parts) for name, *parts in zip(Task._fields, *ones, strict=True)}
        save_file(stacked, folder / kind / EPISODES_FILE)


def _task(pool: Pool, work: Work, number: int) -> Task:
    rows = draw(pool, work.way, work.shot + work.queries, episode_generator(SEED, number))
    episode = to_episode(pool.take(rows), work.shot)
    return Task(episode.support.inputs, episode.support.labels, episode.query_inputs, episode.query_labels)


@torch.no_grad()
def _embedded(found: Checkpoint, task: Task) -> Task:
    """Of length one: so easyfsl's matching, which takes the queries as they are, has the paper's cosines."""
    embedded = [torch.nn.functional.normalize(found.backbone(one)) for one in (task.support, task.queries)]
    return Task(embedded[0], task.support_labels, embedded[1], task.query_labels)


def _pool(found: Checkpoint) -> Pool:
    """Uint8 images (n, 1, 28, 28)."""
    folder = os.environ.get("IMPRINT_DATA")
    if folder and (Path(folder) / "omniglot").is_dir():
        return datasets.load(Data("omniglot"), data.data_dir(), "test", kit_of(found).codec)
    return Pool.of_classes(torch.stack([_like(file) for file in glyphs(64, SEED)]))


def _like(file: bytes, each: int = 20) -> Tensor:
    """Examples of a made-up class: a glyph in white on black, moved by up to two pixels, with noise."""
    ink = 255 - np.asarray(Image.open(io.BytesIO(file)), np.int64)
    by = np.random.default_rng(int(ink.sum()))
    moved = [np.roll(ink, by.integers(-2, 3, 2), (0, 1)) + by.normal(0, 40, ink.shape) for _ in range(each)]
    return torch.from_numpy(np.stack(moved).clip(0, 255).astype(np.uint8))[:, None]
