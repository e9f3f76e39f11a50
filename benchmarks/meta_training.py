"""Episodes a second of meta-training, ours and others': `python -m benchmarks.meta_training [--device cuda]`.

MAML is of second order; all learners are meta-trained on 5-way 1-shot episodes with 15 queries a class, 16 episodes a
step, 5 inner steps, over a conv4. Every contender has a process of its own and starts from the same weights and
episodes. They take turns, one at a time; medians of the rounds. Memory is the peak above what the process held before
its first step. Ours draws its episodes anew in each step; those of the peers lie ready. In the end their meta-gradients
are compared, in float64: where one is off by more than a millionth of its length, no number is printed.

`higher` and `torchopt` are left out where they are not installed: `pip install higher torchopt`.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, final

import torch
from safetensors.torch import load_file

from benchmarks.contender import OURS, Work
from benchmarks.meta_contenders import PEERS, missing
from benchmarks.ours import lay_out
from benchmarks.table import Row, arguments, show

GOALS: Final = {"cpu": 1.3, "cuda": 8.0}
TITLES: Final = {"maml": "MAML", "anil": "ANIL", "protonet": "ProtoNet"}
TOLERANCE: Final = 1e-6
MIB: Final = 2**20
ROOT: Final = Path(__file__).parents[1]


class Disagreement(Exception):
    """Two contenders compute different meta-gradients."""


@dataclass(frozen=True)
class Measured:
    """A contender's episodes a second in each round, its peak memory, and what it said of itself."""

    speeds: Sequence[float]
    peak_bytes: int
    about: str

    @property
    def median(self) -> float:
        """Of the rounds."""
        return statistics.median(self.speeds)


@final
class Process:
    """A contender's process, which waits for its turn."""

    def __init__(self, name: str, folder: Path, threads: int | None) -> None:
        # Importing our code chooses how OpenMP waits; the peers shall have torch's own choice.
        environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
        if threads is not None:
            environment["OMP_NUM_THREADS"] = str(threads)
        command = [sys.executable, "-m", "benchmarks.contender", name, str(folder)]
        self.name = name
        self._process = subprocess.Popen(  # noqa: S603 - this interpreter, and a name from our own table
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT
        )

    def __enter__(self) -> "Process":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(self, line: str) -> None:
        """Send it a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """What it says next. Raises: `RuntimeError` where it ended instead."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"The contender {self.name!r} ended with status {self._process.wait()}.")
        answered: dict[str, Any] = json.loads(line)
        return answered

    def end(self) -> dict[str, Any]:
        """Let it end; its last answer."""
        self.ask("end")
        return self.answer()


def measured(work: Work, names: Sequence[str], rounds: int, threads: int | None = None) -> dict[str, Measured]:
    """Run the contenders in turns. Raises: `Disagreement`; `RuntimeError` where one of them fails."""
    with tempfile.TemporaryDirectory(prefix="imprint-bench-") as scratch, ExitStack() as stack:
        folder = Path(scratch)
        lay_out(work, folder)
        processes, abouts = [], []
        for name in names:
            _tell(f"{work.learner}: {name} starts")
            processes.append(stack.enter_context(Process(name, folder, threads)))
            # One after the other: their first steps measure, too.
            abouts.append(processes[-1].answer()["about"])
        speeds: list[list[float]] = [[] for _ in names]
        for number in range(rounds):
            for found, process in zip(speeds, processes, strict=True):
                process.ask("round")
                took = process.answer()
                found.append(work.meta_batch * took["steps"] / took["seconds"])
            told = ", ".join(f"{name} {found[-1]:.1f}" for name, found in zip(names, speeds, strict=True))
            _tell(f"{work.learner}: round {number + 1} of {rounds}, episodes/s: {told}")
        ends = [process.end() for process in processes]
        compare({name: load_file(end["gradients"]) for name, end in zip(names, ends, strict=True)})
        return {
            name: Measured(found, end["peak_bytes"], about)
            for name, found, end, about in zip(names, speeds, ends, abouts, strict=True)
        }


def compare(gradients: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
    """Refuse meta-gradients that are not the first one's, up to the tolerance. Raises: `Disagreement`."""
    first, *others = gradients
    whole = {name: torch.cat([one[key].double().flatten() for key in sorted(one)]) for name, one in gradients.items()}
    for name in others:
        if set(gradients[name]) != set(gradients[first]):
            raise Disagreement(f"{name} and {first} have gradients of different parameters.")
        off = float((whole[name] - whole[first]).norm() / whole[first].norm())
        if not off <= TOLERANCE:
            raise Disagreement(f"The meta-gradients of {name} and {first} differ by {off:.2g} of their length.")


def rows_of(learner: str, found: Mapping[str, Measured], goal: float) -> list[Row]:
    """The rows of one learner: speeds, ours over the best peer, memory."""
    title = TITLES[learner]
    rows = [Row(f"{title}, {name}", one.median, "episodes/s", note=one.about) for name, one in found.items()]
    ours, peers = found[OURS], {name: one for name, one in found.items() if name != OURS}
    best = max(peers, key=lambda name: peers[name].median)
    ratios = [mine / its for mine, its in zip(ours.speeds, peers[best].speeds, strict=True)]
    spread = f"rounds {min(ratios):.2f} to {max(ratios):.2f}"
    rows.append(Row(f"{title}, ours over {best}", statistics.median(ratios), "times", goal, note=spread))
    for name, one in found.items():
        rows.append(Row(f"  {title}, peak memory, {name}", one.peak_bytes / MIB, "MiB", better="lower"))
    return rows


def main() -> None:
    """Measure the named learners."""
    parser = arguments(__doc__ or "")
    parser.add_argument(
        "learners", nargs="*", default=[], choices=[*PEERS, []], help="which learners; all when left out"
    )
    parser.add_argument("--device", choices=list(GOALS), default="cpu", help="where the networks run")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender")
    parser.add_argument(
        "--threads", type=int, help="OpenMP threads of each contender; torch's own number when left out"
    )
    parser.add_argument("--norm", choices=["batch", "group"], default="batch", help="the conv4's normalisation")
    options = parser.parse_args()
    lacking = missing()
    if lacking:
        _tell(f"not installed, so left out: {', '.join(lacking)} (pip install {' '.join(lacking)})")
    device: Literal["cpu", "cuda"] = options.device
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("Torch sees no CUDA device here.")
    rows: list[Row] = []
    for learner in options.learners or PEERS:
        names = [OURS, *(name for name in PEERS[learner] if name not in lacking)]
        work = Work(learner, norm=options.norm, device=device)
        rows += rows_of(learner, measured(work, names, options.rounds, options.threads), GOALS[device])
    shape = f"conv4 ({options.norm} norm), {work.way}-way {work.shot}-shot, {work.queries} queries a class"
    title = f"Meta-training on the {device}: {shape}, {work.meta_batch} episodes a step, medians of {options.rounds}"
    show(title, rows, options.json)


def _tell(line: str) -> None:
    sys.stderr.write(line + "\n")


if __name__ == "__main__":
    main()
