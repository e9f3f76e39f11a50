"""What this machine computes with."""

import os
import platform
from functools import cache
from pathlib import Path

import torch


@cache
def cpu() -> str:
    """The CPU's model, its cores, and the vector instructions that torch found."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    # `processor` starts a process: asked last.
    model = named[0] if named else platform.processor() or platform.machine()
    return f"{model}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"
