"""What `imprint train` does: read the recipe, train, judge on the test classes, write the checkpoint."""

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path

import torch

from app.checkpoints.load import Checkpoint, load, scan
from app.core.errors import ImprintError
from app.training import datasets
from app.training.build import Blueprint
from app.training.curves import CURVES_FILE, SCORES_FILE, Events, Log, draw_curves, missing_extras, scores_table
from app.training.embedding import placed
from app.training.errors import BadRecipe
from app.training.evaluate import Accuracy
from app.training.loop import Run
from app.training.parallel import connected
from app.training.publish import judge_on_test, learners_to_serve, publish, restore_run_folder, rounded
from app.training.recipe import Judging, Recipe, read_recipe
from app.training.report import Report, Several, console_report
from app.training.resume import RunState, write_whole
from app.training.sampler import Pool
from app.training.stopping import Stopped, listening
from app.training.train import Pools, Trained, so_far, stored_state, train

RECIPES = files("app.training") / "recipes"


@dataclass(frozen=True)
class Options:
    """What the command was told. `models` are the folders where `init` finds its checkpoint, beside `out`.

    `fresh` throws an earlier state of the run away; `finish` trains no further and publishes the best so far.
    """

    recipe: str
    data: Path
    out: Path
    models: Sequence[Path] = ()
    name: str | None = None
    device: str = "auto"
    threads: int | None = None
    save_minutes: float = 5.0
    fresh: bool = False
    finish: bool = False


def main(options: Options) -> int:
    """Run the command; returns the exit status: 0, 1 after a sentence on what is wrong, or that of a signal."""
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    try:
        with connected(options.device) as ranks, listening() as sign:
            folder = restore_run_folder(options.out, _recipe(options).name)
            run = Run(ranks, folder, 60 * options.save_minutes, sign=sign)
            _train(_blueprint(options), options, run)
    except Stopped as stopped:
        sys.stderr.write(f"{stopped}; the state is saved: the same command goes on\n")
        return stopped.exit_status
    except (ImprintError, OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def find_recipe(name: str) -> Recipe:
    """A recipe by its file, or by the name of a bundled one. Raises: `BadRecipe`; `OSError`."""
    if name.endswith(".toml"):
        return read_recipe(Path(name))
    with as_file(RECIPES) as folder:
        if not (folder / f"{name}.toml").is_file():
            known = ", ".join(sorted(one.stem for one in folder.glob("*.toml")))
            raise BadRecipe(f"There is no bundled recipe {name!r}; there are {known}. A file's name ends in .toml.")
        return read_recipe(folder / f"{name}.toml")


def find_checkpoint(name: str, folders: Sequence[Path], *, adapted: bool = True) -> Checkpoint:
    """A checkpoint by its name, or by its folder; its network without an adapter where `adapted` is false.

    Raises: `BadRecipe` where there is none; as `load`.
    """
    place = Path(name)
    if (place / "card.json").is_file():
        folders, name = [place.resolve().parent], place.resolve().name
    located = scan([one for one in folders if one.is_dir()])
    if name not in located:
        raise BadRecipe(f"There is no checkpoint {name!r}; there are {', '.join(sorted(located)) or 'none'}.")
    return load(located[name], adapted=adapted)


def _recipe(options: Options) -> Recipe:
    recipe = find_recipe(options.recipe)
    return recipe if options.name is None else replace(recipe, name=options.name)


def _blueprint(options: Options) -> Blueprint:
    recipe = _recipe(options)
    start = None
    if recipe.init is not None:
        start = find_checkpoint(recipe.init, [*options.models, options.out], adapted=not recipe.plain_init)
    return Blueprint(recipe, start)


def _train(blueprint: Blueprint, options: Options, run: Run) -> None:
    recipe = blueprint.recipe
    if options.fresh and run.ranks.leads and run.folder is not None:
        shutil.rmtree(run.folder, ignore_errors=True)
    codec = blueprint.codec()
    training, validation = (datasets.load(recipe.data, options.data, part, codec) for part in ("train", "validation"))
    pools = Pools(training, validation)
    state = None if options.fresh else stored_state(blueprint, pools, run)
    report = _report(recipe, run, state)
    run = replace(run, report=report)
    try:
        if options.finish:
            trained = so_far(blueprint, state, run) if state else None
            if trained is None:
                raise BadRecipe("There is nothing to finish: the run has not been validated yet.")
        else:
            if state is not None and state.stage == len(recipe.stages):
                report.say("this run is done: judging and writing it again (--fresh trains anew)")
            trained = train(blueprint, pools, run, state)
        # Who names no tests need not have test classes.
        test = datasets.load(recipe.data, options.data, "test", codec) if recipe.tests else training
        _finish(blueprint, trained, test, options.out, run)
    finally:
        report.end()


def _report(recipe: Recipe, run: Run, state: RunState | None) -> Report:
    """The console, the log and the events, on the process that leads."""
    if not run.ranks.leads or run.folder is None:
        return Report()
    done = recipe.stages[: state.stage] if state else ()
    lines = console_report()
    reports = [lines, Log(run.folder, state.history if state else [])]
    missing = missing_extras()
    if missing:
        lines.say(missing)
    if "TensorBoard" not in missing:
        reports.append(Events(run.folder / "events", sum(one.optimiser.steps for one in done)))
    return Several(reports)


def _finish(blueprint: Blueprint, trained: Trained, test: Pool, out: Path, run: Run) -> None:
    """Judge on the test classes, write the checkpoint, and what the run leaves to look at."""
    recipe, say = blueprint.recipe, run.report.say
    rounded(trained.learner.backbone, blueprint.dtype)
    served = learners_to_serve(recipe, trained)

    def heard(learner: str, judging: Judging, accuracy: Accuracy) -> None:
        say(f"{learner} {judging.way}-way {judging.shot}-shot {accuracy}")

    about = (recipe.data.title("test"), recipe.card.external_pretraining)
    scores = judge_on_test(served, placed(test, run.ranks.device), recipe.tests, about, heard, run.ranks)
    if not run.ranks.leads or run.folder is None:
        return
    card = publish(blueprint, trained, served, scores, out)
    write_whole(run.folder / SCORES_FILE, scores_table(scores).encode())
    if CURVES_FILE not in missing_extras():
        draw_curves(run.folder / CURVES_FILE, trained.history, trained.losses, recipe.name)
    say(f"wrote {out / card.name}" + (f", sha256 {card.sha256}" if card.sha256 else ""))
