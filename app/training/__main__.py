"""Train a recipe and write its checkpoint.

    python -m app.training RECIPE --data DIR --out DIR [--threads N]

RECIPE is a TOML file, or the name of a bundled recipe. DIR of the data holds one folder per data set.
The checkpoint is written to OUT/<recipe's name>/, in place of one that is there.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path

import torch

from app.core.errors import ImprintError
from app.training import datasets
from app.training.evaluate import Accuracy
from app.training.loop import Progress, train
from app.training.publish import judge_on_test, publish
from app.training.recipe import Judging, Recipe, read_recipe


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m app.training", description="Train a recipe.")
    parser.add_argument("recipe", help="a TOML file, or the name of a bundled recipe")
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds one folder per data set")
    parser.add_argument("--out", type=Path, required=True, help="where the checkpoint's folder goes")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads of torch")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        run(_recipe(options.recipe), options.data, options.out)
    except (ImprintError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def run(recipe: Recipe, data: Path, out: Path) -> None:
    """Train, judge on the test classes, write the checkpoint. Raises: `ImprintError`, `OSError`."""
    splits = recipe.data
    training, validation = (datasets.load(splits.name, data, split) for split in (splits.train, splits.validation))
    trained = train(recipe, training, validation, _say_progress)
    test = datasets.load(splits.name, data, splits.test)
    card = publish(recipe, trained, judge_on_test(recipe, trained.backbone, test, _say_score), out)
    sys.stdout.write(f"wrote {out / card.name}, sha256 {card.sha256}\n")


def _recipe(name: str) -> Recipe:
    if name.endswith(".toml"):
        return read_recipe(Path(name))
    with as_file(files("app.training") / "recipes" / f"{name}.toml") as path:
        return read_recipe(path)


def _say_progress(now: Progress) -> None:
    judged = f"{100 * now.validation.mean:.2f} +- {100 * now.validation.interval_95:.2f} %"
    sys.stdout.write(
        f"step {now.step}/{now.steps} loss {now.loss:.4f} validation {judged} after {now.elapsed_s:.0f} s\n"
    )
    sys.stdout.flush()


def _say_score(learner: str, judging: Judging, accuracy: Accuracy) -> None:
    judged = f"{100 * accuracy.mean:.2f} +- {100 * accuracy.interval_95:.2f} %"
    sys.stdout.write(f"{learner} {judging.way}-way {judging.shot}-shot {judged}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
