"""One contender of `benchmarks.meta_training`, in a process of its own: `python -m benchmarks.contender NAME FOLDER`.

It says on its standard output that it is ready, then answers each line of its standard input with one of JSON: "round"
with the steps it took and the seconds, "end" with its peak memory and the file of its meta-gradient. Peers never load
any of our code, whose choice for OpenMP would be theirs too.
"""

import ctypes
import gc
import importlib
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final, Protocol, TextIO

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.meta_contenders import PEERS, Model, Plan, Task

OURS: Final = "ours"
WORK_FILE: Final = "work.json"
WEIGHTS_FILE: Final = "weights.safetensors"
POOL_FILE: Final = "pool.safetensors"
TASKS_FILE: Final = "tasks.safetensors"
CHECKED_EPISODES: Final = 2
LEARNING_RATE: Final = 1e-6
"""Of the outer loop: the same episodes come again and again, and nothing shall be learned from them."""


@dataclass(frozen=True)
class Work:
    """What is measured. `rate` is the inner loop's; a round lasts `least_s` or one step, whichever is longer."""

    learner: str
    norm: str = "batch"
    way: int = 5
    shot: int = 1
    queries: int = 15
    steps: int = 5
    rate: float = 0.1
    meta_batch: int = 16
    filters: int = 64
    side: int = 28
    seed: int = 0
    device: str = "cpu"
    least_s: float = 1.0

    def write(self, folder: Path) -> None:
        """Into a file of the folder."""
        (folder / WORK_FILE).write_text(json.dumps(asdict(self)), encoding="utf-8")

    @staticmethod
    def read(folder: Path) -> "Work":
        """What `write` wrote."""
        return Work(**json.loads((folder / WORK_FILE).read_text(encoding="utf-8")))


class Trainer(Protocol):
    """A way of meta-training."""

    def prepare(self) -> str:
        """Settle what is settled by measurement; says how, or nothing."""

    def gradients(self) -> Mapping[str, Tensor]:
        """The meta-gradient of the work's episodes, by the names that `Model` has."""

    def step(self) -> None:
        """One step of the outer loop on them."""


class Peer:
    """One of `benchmarks.meta_contenders`, with Adam around it. Its episodes lie ready on the device."""

    def __init__(self, name: str, work: Work, folder: Path, kind: torch.dtype = torch.float32) -> None:
        self._run = PEERS[work.learner][name]
        self._plan = Plan(work.way, work.steps, work.rate)
        self._model = Model(work.way, work.norm, work.filters, work.side)
        self._model.load_state_dict(load_file(folder / WEIGHTS_FILE))
        self._model.to(work.device, kind)
        stored = {
            field: one[: work.meta_batch].to(work.device) for field, one in load_file(folder / TASKS_FILE).items()
        }
        stacked = {field: one.to(kind) / 255 if one.dtype == torch.uint8 else one for field, one in stored.items()}
        self._tasks = [Task(*one) for one in zip(*(stacked[field] for field in Task._fields), strict=True)]
        self._optimiser = torch.optim.Adam(self._model.parameters(), lr=LEARNING_RATE)

    def prepare(self) -> str:
        """Nothing."""
        return ""

    def gradients(self) -> Mapping[str, Tensor]:
        """The meta-gradient."""
        self._optimiser.zero_grad()
        self._run(self._model, self._tasks, self._plan)
        return {name: one.grad for name, one in self._model.named_parameters() if one.grad is not None}

    def step(self) -> None:
        """One step."""
        self.gradients()
        self._optimiser.step()


def trainer(name: str, work: Work, folder: Path, kind: torch.dtype = torch.float32) -> Trainer:
    """A contender by its name."""
    if name != OURS:
        return Peer(name, work, folder, kind)
    made: Trainer = importlib.import_module("benchmarks.ours").Ours(work, folder, kind)
    return made


def serve(name: str, folder: Path, lines: TextIO, answers: TextIO) -> None:
    """Get ready, do rounds until told to end, and leave the meta-gradient."""

    def answer(**said: object) -> None:
        answers.write(json.dumps(said) + "\n")
        answers.flush()

    work = Work.read(folder)
    contender = trainer(name, work, folder)
    forget_peak(work.device)
    before = peak_bytes(work.device)
    about = contender.prepare()
    forget_peak(work.device)
    contender.step()
    answer(about=about)
    for line in lines:
        if line.strip() == "end":
            break
        answer(**timed(contender, work))
    used = peak_bytes(work.device) - before
    answer(peak_bytes=used, gradients=str(_leave_gradients(name, work, folder)))


def _leave_gradients(name: str, work: Work, folder: Path) -> Path:
    """The file of the meta-gradient of a few episodes, in float64: in float32 one ReLU that flips is seen."""
    fresh = trainer(name, replace(work, meta_batch=CHECKED_EPISODES), folder, torch.float64)
    found = {key: one.detach().cpu().contiguous() for key, one in fresh.gradients().items()}
    path = folder / f"{name.replace(' ', '-')}.safetensors"
    save_file(found, path)
    return path


def timed(contender: Trainer, work: Work) -> dict[str, float]:
    """Steps, until the round has lasted long enough."""
    steps, seconds, started = 0, 0.0, time.perf_counter()
    while not steps or seconds < work.least_s:
        contender.step()
        steps += 1
        if work.device != "cpu":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    return {"steps": steps, "seconds": seconds}


def peak_bytes(device: str) -> int:
    """The most memory in use so far: the device's by tensors, or this process's where that is the CPU."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (one for one in status.read_text(encoding="utf-8").splitlines() if one.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource  # noqa: PLC0415 - there is none on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def forget_peak(device: str) -> None:
    """Count the peak from now on, where the system can; what was freed is handed back to it first."""
    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        getattr(ctypes.CDLL(None), "malloc_trim", int)(0)
        reset.write_text("5", encoding="utf-8")


if __name__ == "__main__":
    serve(sys.argv[1], Path(sys.argv[2]), sys.stdin, sys.stdout)
