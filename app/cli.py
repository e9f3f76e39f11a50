"""The command line: `imprint serve`, `demo`, `train`, `evaluate`, `bench`, `doctor`."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from app.core.free_memory import keep_giving_back

if TYPE_CHECKING:
    from app.config import Settings

APP: Final = "app.main:create_app"
"""By name: what wires everything stands beside the command line, not below it."""

COLLECT: Final = (2_000, 10, 1_000)
"""New containers before the garbage collector looks at them, looks before it looks at those that stayed, and such looks
before it looks at all. A thousand requests that wait are a hundred thousand objects: to look at all of them stops every
thread for a tenth of a second, and refusals wait, too."""

SWITCH_S: Final = 0.0005
"""How long a thread may hold the interpreter while another waits. The device thread gives it away in every operation of
torch, and the event loop is slow to give it back: a tenth of the usual 5 ms served a sixth more where each request had
a head of its own, and the same where none had.
"""

NOT_STARTED: Final = 3
DEVICE_LOST: Final = 70
"""Exit codes of `serve`: what it needs to start is missing, and a device that only a new process can use again."""

cli = typer.Typer(name="imprint", no_args_is_help=True, add_completion=False, help=__doc__)


class Refused(typer.BadParameter):
    """A setting that would do harm."""


@cli.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on (IMPRINT_HOST).")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on (IMPRINT_PORT).")] = None,
) -> None:
    """Serve the HTTP API until SIGTERM or Ctrl-C.

    Exits with 70 where the device was lost to this process: have it started again.
    """
    with _uncollected():
        import uvicorn  # noqa: PLC0415 - `--help` need not wait for torch

        from app.api.protocol import Protocol  # noqa: PLC0415

        settings = _checked({"host": host, "port": port})
        create_app = uvicorn.importer.import_from_string(APP)
    lost = Event()

    def when_lost() -> None:
        lost.set()
        server.should_exit = True

    config = uvicorn.Config(
        partial(create_app, settings, when_ready=_settle, when_lost=when_lost),
        factory=True,
        host=settings.host,
        port=settings.port,
        http=Protocol,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing here asks who the client is
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=int(settings.drain_timeout_s) + 1,
    )
    server = uvicorn.Server(config)
    with suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        raise typer.Exit(NOT_STARTED)
    if lost.is_set():
        raise typer.Exit(DEVICE_LOST)


def _checked(changed: dict[str, Any]) -> "Settings":
    """The settings, where a server may start with them; logs go as they say. Raises: `Refused`."""
    from pydantic import ValidationError  # noqa: PLC0415

    from app.api import logs  # noqa: PLC0415
    from app.config import Settings  # noqa: PLC0415
    from app.registry.ownership import DataFolderInUse, owned  # noqa: PLC0415

    try:
        settings = Settings(**{name: value for name, value in changed.items() if value is not None})
    except ValidationError as error:
        raise Refused("; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())) from None
    check_bind(settings)
    try:
        with owned(settings.data_dir):
            pass
    except DataFolderInUse as error:
        raise Refused(error.detail) from None
    logs.configure(settings.log_format, settings.log_level)
    return settings


@contextmanager
def _uncollected() -> Iterator[None]:
    """Import without the garbage collector, which would look through all modules again and again; none ever goes."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _settle() -> None:
    """Spare the garbage collector what was made until now, and what waits; let threads take turns more often.

    What the start and each rush of requests leave behind goes back to the system.
    """
    gc.freeze()
    gc.set_threshold(*COLLECT)
    sys.setswitchinterval(SWITCH_S)
    keep_giving_back()


def check_bind(settings: "Settings") -> None:
    """Refuse to listen where strangers can reach a server without keys, unless told to."""
    if settings.host in ("127.0.0.1", "::1", "localhost") or settings.allow_open_bind:
        return
    raise Refused(
        f"{settings.host} can be reached by others and there are no API keys. Listen on 127.0.0.1, or set "
        "IMPRINT_ALLOW_OPEN_BIND=true if a proxy in front checks who calls."
    )


@cli.command()
def demo(
    once: Annotated[bool, typer.Option(help="Stop the server afterwards.")] = False,
    port: Annotated[int, typer.Option(help="Port of the demo's server; 0 takes a free one.")] = 8000,
) -> None:
    """Start a server, make two classifiers over HTTP from real examples, predict, print the answers."""
    from app.demo import run  # noqa: PLC0415

    raise typer.Exit(run(once=once, port=port))


@cli.command()
def bench(
    backbone: Annotated[list[str] | None, typer.Option(help="Which backbones; one of each make when unset.")] = None,
    seconds: Annotated[float, typer.Option(min=0.2, help="How long each is asked; half of it also records.")] = 2.0,
    clients: Annotated[int, typer.Option(min=1, max=1000, help="How many ask at a time.")] = 32,
    json: Annotated[Path | None, typer.Option(help="A file for the numbers.")] = None,
) -> None:
    """Measure this machine with your settings, on a server of its own, and say which part of it is the limit."""
    from app.bench import Options, run  # noqa: PLC0415

    raise typer.Exit(run(Options(backbone or (), seconds, clients, json)))


@cli.command()
def doctor() -> None:
    """Check this machine: device, checkpoints, SQLite, disk, settings."""
    from app.config import Settings  # noqa: PLC0415
    from app.doctor import report  # noqa: PLC0415

    raise typer.Exit(0 if report(Settings()) else 1)


DataFolder = Annotated[Path, typer.Option("--data", help="The folder that holds a folder for each data set.")]
Device = Annotated[str, typer.Option(help='Where to compute: "auto", "cpu", "cuda", "cuda:1".')]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads of torch; its own default when unset.")]


@cli.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A TOML file, or the name of a bundled recipe.")],
    data: DataFolder,
    out: Annotated[Path, typer.Option(help="Where the checkpoint's folder goes; IMPRINT_MODELS serves it.")],
    name: Annotated[str | None, typer.Option(help="Name of the checkpoint, in place of the recipe's.")] = None,
    device: Device = "auto",
    threads: Threads = None,
    save_minutes: Annotated[float, typer.Option(min=0.0, help="How often the state of the run is saved.")] = 5.0,
    fresh: Annotated[bool, typer.Option("--fresh/--resume", help="Throw the state of an earlier start away.")] = False,
    finish: Annotated[bool, typer.Option("--finish", help="Train no further: publish the best so far.")] = False,
) -> None:
    """Meta-train a recipe and write its checkpoint, going on where an earlier start was stopped."""
    from app.config import Settings  # noqa: PLC0415
    from app.training.train_command import Options, main  # noqa: PLC0415

    models = Settings().model_folders()
    raise typer.Exit(main(Options(recipe, data, out, models, name, device, threads, save_minutes, fresh, finish)))


@cli.command()
def evaluate(
    checkpoint: Annotated[str, typer.Argument(help="The folder of a checkpoint, or its name.")],
    data: DataFolder,
    dataset: Annotated[str, typer.Option(help='Which data set: "images", "texts", "omniglot", ...')],
    folder: Annotated[str, typer.Option(help="Its folder under the data folder, where that is not its name.")] = "",
    setting: Annotated[list[str] | None, typer.Option(help="A setting of the data set, key=value.")] = None,
    split: Annotated[str, typer.Option(help='Which classes; "all" is every class.')] = "test",
    learner: Annotated[list[str] | None, typer.Option(help="Which learners; all of the card when unset.")] = None,
    way: Annotated[list[int] | None, typer.Option(help="Classes of an episode; 5 when unset.")] = None,
    shot: Annotated[list[int] | None, typer.Option(help="Supports of a class; 1 and 5 when unset.")] = None,
    queries: Annotated[int, typer.Option(help="Queries of a class.")] = 15,
    episodes: Annotated[int, typer.Option(help="How many episodes.")] = 600,
    seed: Annotated[int, typer.Option(help="Decides which episodes.")] = 1,
    device: Device = "auto",
    threads: Threads = None,
    json: Annotated[Path | None, typer.Option(help="A file for the rows, as in a card's scores.")] = None,
) -> None:
    """Judge a checkpoint's learners on few-shot episodes: mean accuracy with its 95 % interval."""
    from app.config import Settings  # noqa: PLC0415
    from app.core.errors import ImprintError  # noqa: PLC0415
    from app.training import evaluate_command as command  # noqa: PLC0415

    try:
        settings = command.parsed_settings(setting or [])
    except ImprintError as error:
        raise typer.BadParameter(error.detail, param_hint="--setting") from None
    options = command.Options(
        checkpoint=checkpoint,
        data=data,
        dataset=dataset,
        folder=folder,
        settings=settings,
        split=split,
        models=Settings().model_folders(),
        learners=learner or (),
        ways=way or (5,),
        shots=shot or (1, 5),
        queries=queries,
        episodes=episodes,
        seed=seed,
        device=device,
        threads=threads,
        json_file=json,
    )
    raise typer.Exit(command.main(options))


def main() -> None:
    """Entry point of the `imprint` command."""
    cli()
