"""What a container engine does for the image test."""

import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

IMAGE = "imprint:image-test"
USER_ID = 10001
STOP_TIMEOUT_S = 30


class EngineError(Exception):
    """The image or the engine did not do what it should; the text says what."""


class Engine(ABC):
    """Builds the image and runs one container of it with one volume, which lasts from `create` to `remove`."""

    name: str

    @abstractmethod
    def build(self) -> None:
        """Build the Dockerfile of the working tree as `IMAGE`."""

    @abstractmethod
    def configuration(self) -> Mapping[str, Any]:
        """The image's configuration, in Docker's own words: User, Env, Cmd, Healthcheck, ..."""

    @abstractmethod
    def create(self) -> None:
        """Make the empty volume and whatever else the runs need."""

    @abstractmethod
    def run(self, command: Sequence[str]) -> str:
        """Run a command in the image as its own user, hardened as compose does; its output."""

    @abstractmethod
    def start(self) -> str:
        """Start the image's own command; the server's base URL."""

    @abstractmethod
    def is_running(self) -> bool:
        """Whether the server's process lives."""

    @abstractmethod
    def check_health(self) -> None:
        """Run the image's healthcheck beside the server. Raises `EngineError` where it says unhealthy."""

    @abstractmethod
    def stop(self) -> None:
        """Stop the server by SIGTERM. Raises `EngineError` unless it closes what it holds and ends in time."""

    @abstractmethod
    def logs(self) -> str:
        """What the server wrote."""

    @abstractmethod
    def remove(self) -> None:
        """Kill what still runs; remove the container and the volume."""


def call(command: Sequence[str], *, show: bool = False, cwd: Path | None = None) -> str:
    """A command's output; with `show` it goes to the terminal. Raises `EngineError` with its end when it fails."""
    if show:
        done = subprocess.run(command, check=False, cwd=cwd, text=True, stdout=sys.stderr, stderr=subprocess.STDOUT)
    else:
        done = subprocess.run(command, check=False, cwd=cwd, text=True, capture_output=True)
    if done.returncode != 0:
        tail = "\n".join(((done.stdout or "") + (done.stderr or "")).splitlines()[-20:])
        raise EngineError(f"`{' '.join(map(str, command))}` ended with {done.returncode}\n{tail}")
    return done.stdout or ""


def check_closed(log: str) -> None:
    """Raises `EngineError` unless the log's end says that the server closed what it held.

    The exit status does not tell: a server that ends itself by the signal it got has another one under every engine.
    """
    if not any('"event":"stopped"' in line.replace(" ", "") for line in log.splitlines()[-10:]):
        raise EngineError(f"the server did not close what it held:\n{log}")


def say(text: str) -> None:
    """One line for the person who waits."""
    sys.stdout.write(f"image-test: {text}\n")
    sys.stdout.flush()
