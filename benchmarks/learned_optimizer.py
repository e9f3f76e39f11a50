"""The learned optimizer against tuned SGD, momentum and Adam: `python -m benchmarks.learned_optimizer`.

The task is what the server does with a support set: to fit a softmax head on the embeddings of glyphs, here by the
objective of the learner `learned_optimizer`, from one start for all. The network was meta-trained on characters of the
training split (the recipe glyph-conv4-learned-optimizer). The others' rates, momenta and decays are the best of a grid
on tasks of the same characters: for all shapes of task together, as the network is, and for each shape by itself,
which is more than it has. All are judged on characters of the test split.

Prints the loss above its minimum after the trained number of steps, and the accuracy beside `logistic` and `ridge`;
draws the curves.
"""

import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from jaxtyping import Float64
from safetensors.torch import load_file
from torch import Tensor

from app.core.episode import Support
from app.learners._base import EmbeddingLearner
from app.services import heads
from app.training import datasets
from app.training.data_section import Data, Part
from app.training.embedding import embed_pool
from app.training.evaluate import evaluate
from app.training.recipe import Judging
from app.training.sampler import Pool, draw, episode_generator, to_episode
from benchmarks.data import data_dir
from benchmarks.features import catalogue_of
from benchmarks.optimizers import FAMILIES, Problems, Rival, minima, on_embeddings, rivals
from benchmarks.table import Row, arguments, mean_interval, show

CHECKPOINT: Final = "glyph-conv4-protonet"
NAME: Final = "learned_optimizer"
OBJECTIVE: Final = ("regularisation", "temperature")
FIGURE: Final = Path("docs/images/learned-optimizer.png")
LEARNED: Final = "learned optimizer"
ALONE: Final = ", for this shape alone"
BEYOND: Final = 3
"""The curves go on to so many times the trained number of steps."""

Shape = tuple[int, int]
"""Way and shot."""
SHAPES: Final = tuple(itertools.product((2, 5, 20), (1, 5, 10)))
PANELS: Final = (None, (5, 1), (5, 5), (20, 5))
TUNING_TASKS, TEST_TASKS = 16, 64
"""Of each shape."""
EPISODES: Final = 1000
TUNE_SEED, TEST_SEED, JUDGE_SEED = 2, 3, 7

Curves = Mapping[Shape, Float64[Tensor, "e steps"]]
"""By shape of task: the loss above the minimum, before each step and at the end."""
Tuned = Mapping[tuple[str, Shape | None], Rival]
"""The best of each family: over all shapes (None), and for each shape by itself."""


def embedded(part: Part) -> Pool:
    """The glyphs of a part of the Vinyals split, by the checkpoint's network."""
    kit = catalogue_of(CHECKPOINT).kit(CHECKPOINT)
    return embed_pool(kit.checkpoint.backbone, datasets.load(Data("omniglot"), data_dir(), part, kit.codec))


def stored(path: Path | None) -> EmbeddingLearner[Any]:
    """The checkpoint's learned optimizer, or one with the weights in a file."""
    if path is None:
        catalogue = catalogue_of(CHECKPOINT)
        return heads.on_embeddings(catalogue.candidate(catalogue.kit(CHECKPOINT), NAME, {}).learner)
    built = on_embeddings(NAME, {})
    built.load_own_state(load_file(path))
    return built


def support_sets(pool: Pool, shape: Shape, count: int, seed: int) -> list[Support]:
    """Tasks of one shape, their embeddings in float64."""
    way, shot = shape
    rows = [draw(pool, way, shot + 1, episode_generator(seed, index)) for index in range(count)]
    return [to_episode(pool.take(one).double(), shot).support for one in rows]


def tuned(pool: Pool, settings: Mapping[str, Any], steps: int) -> Tuned:
    """Choose by the mean loss after `steps`."""
    ends: dict[Rival, dict[Shape, float]] = {one: {} for one in rivals()}
    for shape in SHAPES:
        those = Problems.of(support_sets(pool, shape, TUNING_TASKS, TUNE_SEED), settings)
        for rival, found in ends.items():
            end = float(those.way_of(rival, steps)[:, -1].mean())
            found[shape] = end if math.isfinite(end) else math.inf
    best: dict[tuple[str, Shape | None], Rival] = {}
    for family in FAMILIES:
        own = {one: found for one, found in ends.items() if one.family == family}
        best[family, None] = min(own, key=lambda one: sum(own[one].values()))
        for shape in SHAPES:
            best[family, shape] = min(own, key=lambda one: own[one][shape])
    return best


def judged(built: EmbeddingLearner[Any], best: Tuned, pool: Pool, settings: Mapping[str, Any]) -> Mapping[str, Curves]:
    """The curves on held-out tasks, beyond the trained number of steps, by the name of the optimizer."""
    steps = BEYOND * settings["steps"]
    longer = on_embeddings(NAME, {**settings, "steps": steps})
    longer.load_own_state(built.own_state())
    found: dict[str, dict[Shape, Tensor]] = {}
    for shape in SHAPES:
        supports = support_sets(pool, shape, TEST_TASKS, TEST_SEED)
        those = Problems.of(supports, settings)
        least = minima(supports, those, settings)[:, None]
        traces = [longer.fit(one.inputs, one.labels, one.way)["support_losses"] for one in supports]
        found.setdefault(LEARNED, {})[shape] = torch.stack(traces) - least
        for family in FAMILIES:
            found.setdefault(family, {})[shape] = those.way_of(best[family, None], steps) - least
            found.setdefault(family + ALONE, {})[shape] = those.way_of(best[family, shape], steps) - least
    return found


def loss_rows(curves: Mapping[str, Curves], best: Tuned, steps: int) -> list[Row]:
    """The loss above the minimum after the trained number of steps; the goal is to be below all three."""
    rows = []
    for panel in (None, *SHAPES):
        ends = {name: _of(curve, panel)[:, steps] for name, curve in curves.items()}
        goal = min(float(ends[family].mean()) for family in FAMILIES)
        for name, values in ends.items():
            family, alone, _ = name.partition(ALONE)
            if panel is None and alone:
                continue
            mean, half = mean_interval(values.tolist())
            note = best[family, panel if alone else None].numbers if family in FAMILIES else ""
            label = f"{_title(panel)}: {name}"
            rows.append(Row(label, mean, "nats", goal if name == LEARNED else None, "lower", half, note))
    return rows


def accuracy_rows(built: EmbeddingLearner[Any], pool: Pool) -> list[Row]:
    """Episodes of the test characters, the same for all learners."""
    rows = []
    for way, shot in itertools.product((5, 20), (1, 5)):
        judging = Judging(way, shot, EPISODES, 5, JUDGE_SEED)
        for name in (NAME, "logistic", "ridge", "protonet"):
            found = evaluate(built if name == NAME else on_embeddings(name, {}), pool, judging, embedded=True)
            label = f"accuracy {way}-way {shot}-shot, {name}"
            rows.append(Row(label, 100 * found.mean, "%", None, "higher", 100 * found.interval_95))
    return rows


def draw_curves(curves: Mapping[str, Curves], steps: int, path: Path) -> None:
    """A panel for all shapes and for some: means with their 95 % intervals, as a PNG."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - only who draws needs it

    figure = Figure(figsize=(13, 4.2), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
        axes.axvline(steps, color="0.8", linewidth=1)
        for colour, family in enumerate((LEARNED, *FAMILIES)):
            values = _of(curves[family], panel)
            mean, half = values.mean(0), 1.96 * values.std(0) / math.sqrt(len(values))
            axes.plot(mean, color=f"C{colour}", label=family)
            axes.fill_between(range(len(mean)), mean - half, mean + half, color=f"C{colour}", alpha=0.2, linewidth=0)
            if panel is not None and family in FAMILIES:
                alone = _of(curves[family + ALONE], panel).mean(0)
                axes.plot(alone, ":", color=f"C{colour}", label=f"{family}, tuned for this shape")
        axes.set(yscale="log", xlabel=f"steps (trained for {steps})", title=_title(panel), ylim=(1e-7, None))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=7, fontsize="small")
    figure.axes[0].set_ylabel("loss above its minimum, nats")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def main() -> None:
    """Tune, judge, draw."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="judge these in place of the checkpoint's")
    parser.add_argument("--figure", type=Path, default=FIGURE, help="where the curves go")
    options = parser.parse_args()
    built, train, test = stored(options.weights), embedded("train"), embedded("test")
    settings = {name: getattr(built.settings, name) for name in ("steps", *OBJECTIVE)}
    steps = settings["steps"]
    best = tuned(train, settings, steps)
    curves = judged(built, best, test, settings)
    draw_curves(curves, steps, options.figure)
    rows = loss_rows(curves, best, steps) + accuracy_rows(built, test)
    show(f"Loss above its minimum after {steps} steps on held-out tasks, and accuracy", rows, options.json)


def _of(curves: Curves, panel: Shape | None) -> Float64[Tensor, "e steps"]:
    return torch.cat(list(curves.values())) if panel is None else curves[panel]


def _title(panel: Shape | None) -> str:
    return "all shapes" if panel is None else f"{panel[0]}-way {panel[1]}-shot"


if __name__ == "__main__":
    main()
