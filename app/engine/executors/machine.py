"""What this machine computes with."""

import os
import platform
from pathlib import Path

import torch


def cpu() -> str:
    """The CPU's model, its cores, and the vector instructions that torch found."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{named[0] if named else model}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"
