"""A virtual environment of its own for each peer, made at its first use and kept in a cache folder.

Peers ask for versions of packages that ours does not have, and shall not be loaded beside our code. Python is the one
that runs here, torch has the version that runs here; all else is what pip finds.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from filelock import FileLock

from benchmarks.rounds import tell

CACHE_VARIABLE: Final = "IMPRINT_PEERS_CACHE"
FINISHED: Final = "finished.txt"
"""Written when all is installed: an environment without it is half-made."""
LAST_LINES: Final = 20
VERSIONS: Final = """
import sys
from importlib.metadata import version
print(", ".join(f"{name} {version(name)}" for name in sys.argv[1:]))
"""
TORCH: Final = f"torch=={torch.__version__.split('+')[0]}"
"""Without the local part of the version: pip takes the build that it finds."""


class NotInstalled(RuntimeError):
    """An environment cannot be made; the message has the last lines of what was said."""


def cache_folder() -> Path:
    """Where environments are kept when nothing else is said."""
    told = os.environ.get(CACHE_VARIABLE)
    return Path(told) if told else Path.home() / ".cache" / "imprint" / "peers"


def python_of(name: str, requirements: Sequence[str], cache: Path | None = None) -> Path:
    """The interpreter of an environment with these requirements; made and installed where it is not there yet.

    Raises: `NotInstalled`.
    """
    folder = (cache or cache_folder()) / f"{name}-{_identity(requirements)}"
    python = folder / "bin" / "python"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not ((folder / FINISHED).is_file() and python.exists()):
            tell(f"{name}: is installed into {folder}")
            _make(folder, python, requirements)
    return python


def installed_versions(python: Path, packages: Sequence[str]) -> str:
    """What an environment has of these packages, as a line for a note."""
    return _run([str(python), "-c", VERSIONS, *packages]).strip()


def _identity(requirements: Sequence[str]) -> str:
    lines = "\n".join([platform.python_version(), *sorted(requirements)])
    return hashlib.sha256(lines.encode()).hexdigest()[:12]


def _make(folder: Path, python: Path, requirements: Sequence[str]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    # Without a pip in it: ours installs into it, and half of the time is saved.
    _run([sys.executable, "-m", "venv", "--without-pip", str(folder)])
    if requirements:
        pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "--no-input"]
        _run([*pip, "install", *requirements])
    unfinished = folder / f"{FINISHED}.new"
    unfinished.write_text("\n".join(requirements) + "\n", encoding="utf-8")
    unfinished.replace(folder / FINISHED)


def _run(command: list[str]) -> str:
    done = subprocess.run(  # noqa: S603 - our own command
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True, check=False
    )
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-LAST_LINES:])
        raise NotInstalled(f"{' '.join(command)} ended with status {done.returncode}; its last lines:\n{tail}")
    return done.stdout
