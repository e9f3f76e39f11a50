"""The command line: `imprint serve`, `imprint demo`, `imprint doctor`."""

from typing import Annotated, Any

import typer
from pydantic import ValidationError

from app.config import Settings
from app.registry.ownership import DataFolderInUse, owned

cli = typer.Typer(name="imprint", no_args_is_help=True, add_completion=False, help=__doc__)


class Refused(typer.BadParameter):
    """A setting that would do harm."""


@cli.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on (IMPRINT_HOST).")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on (IMPRINT_PORT).")] = None,
) -> None:
    """Serve the HTTP API until SIGTERM or Ctrl-C."""
    import uvicorn  # noqa: PLC0415 - `--help` need not wait for torch

    from app.api import logs  # noqa: PLC0415

    changed: dict[str, Any] = {"host": host, "port": port}
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
    uvicorn.run(
        "app.main:create_app",
        factory=True,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(settings.drain_timeout_s) + 1,
    )


def check_bind(settings: Settings) -> None:
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
def doctor() -> None:
    """Check this machine: device, checkpoints, SQLite, disk, settings."""
    from app.doctor import report  # noqa: PLC0415

    raise typer.Exit(0 if report(Settings()) else 1)


def main() -> None:
    """Entry point of the `imprint` command."""
    cli()
