"""What the commands share whose contenders take turns: options, title, device, and an end that stops servers too."""

import argparse
import os
import signal
import sys
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.table import arguments


@dataclass(frozen=True)
class Measured:
    """A number that says how much is measured: its option, what it is called, and what it is for."""

    name: str
    """The attribute of the scope, and of the options."""
    shown: str
    help: str


SHARED = (
    Measured("rounds", "rounds", "turns of each contender; fewer for a first look"),
    Measured("seconds", "seconds a turn", "of each turn under load"),
)


def parser(description: str, rows: Collection[str], full: Any, own: Collection[Measured]) -> argparse.ArgumentParser:
    """The command line; each number is as in the `full` scope where it is left out."""
    made = arguments(description)
    made.add_argument("rows", nargs="*", default=[], choices=[*rows, []], help="which rows; all when left out")
    made.add_argument("--device", choices=["cpu", "cuda"], default=full.device, help="where the backbones run")
    for one in (*SHARED, *own):
        default = getattr(full, one.name)
        made.add_argument(
            f"--{one.name.replace('_', '-')}", type=type(default), default=default, help=one.help, dest=one.name
        )
    return made


def title(what: str, scope: Any, full: Any, own: Collection[Measured]) -> str:
    """How much was measured, and what is less than it should be."""
    lesser = [
        f"{one.shown} {getattr(scope, one.name):g} in place of {getattr(full, one.name):g}"
        for one in (*SHARED, *own)
        if getattr(scope, one.name) < getattr(full, one.name)
    ]
    first_look = f" A FIRST LOOK: {', '.join(lesser)}." if lesser else ""
    return (
        f"{what} on the {scope.device}, medians of {scope.rounds} rounds, interleaved.{first_look} "
        f"Load of the machine before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )


def numbers(options: argparse.Namespace, own: Collection[Measured]) -> dict[str, Any]:
    """Of the options, what the scope holds."""
    return {one.name: getattr(options, one.name) for one in (*SHARED, *own)} | {"device": options.device}


def make_ready(device: str) -> None:
    """Look for the device, and end by an exception when told to end, so that servers are stopped, too."""
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("Torch sees no CUDA device here.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
