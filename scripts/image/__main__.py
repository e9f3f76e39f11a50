"""`python -m scripts.image`: build the image, serve from it, do the main job over HTTP, restart, compare.

With a Docker engine it uses that; elsewhere buildah (as root) on a base that debootstrap makes. Everything it needs
lies in `.image/`, which git ignores; `rm -rf .image` undoes it.
"""

import argparse
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.image.buildah import Buildah
from scripts.image.docker import Docker
from scripts.image.engine import Engine, EngineError, say
from scripts.image.inspection import check_configuration, check_inside
from scripts.image.main_job import do_main_job, repeat_predictions, wait_until_ready

ROOT = Path(__file__).resolve().parents[2]
SCRATCH = ROOT / ".image"


def main() -> int:
    """The exit status: 0 when the image did all that was asked of it."""
    parser = argparse.ArgumentParser(prog="python -m scripts.image", description=__doc__)
    parser.add_argument("--engine", choices=("auto", "docker", "buildah"), default="auto")
    parser.add_argument("--skip-build", action="store_true", help="test the image that the last run built")
    arguments = parser.parse_args()
    try:
        engine = choose(arguments.engine)
        say(f"engine: {engine.name}")
        if not arguments.skip_build:
            with timed("build"):
                engine.build()
        test(engine)
    except EngineError as error:
        say(f"FAILED: {error}")
        return 1
    say("the image does its job")
    return 0


def choose(wanted: str) -> Engine:
    """The engine that was asked for, or the one that this machine has. Raises `EngineError` where there is none."""
    if wanted == "docker" or (wanted == "auto" and Docker.answers()):
        return Docker(ROOT)
    missing = [tool for tool in ("buildah", "debootstrap") if shutil.which(tool) is None]
    if missing:
        raise EngineError(f"no Docker engine answers; without one, install {' and '.join(missing)}")
    return Buildah(ROOT, SCRATCH)


def test(engine: Engine) -> None:
    """All checks on a built image. Raises `EngineError` at the first that fails."""
    check_configuration(engine.configuration())
    engine.create()
    try:
        check_inside(engine)
        url = engine.start()
        with timed("first start"):
            wait_until_ready(url, engine)
        engine.check_health()
        answers = do_main_job(url)
        with timed("stop"):
            engine.stop()
        url = engine.start()
        with timed("second start, same volume"):
            wait_until_ready(url, engine)
        repeat_predictions(url, answers)
        engine.stop()
    finally:
        engine.remove()


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print how long a part took."""
    started_s = time.monotonic()
    yield
    say(f"{what}: {time.monotonic() - started_s:.1f} s")


if __name__ == "__main__":
    sys.exit(main())
