"""A checkpoint's backbone alone, in a process of its own: no server, no decoding, no heads.

It embeds what it was given, decoded beforehand, by any executor that the engine offers and in forwards of any size.
"""

import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from app.checkpoints.load import load_all
from app.codecs import RawInput, codec_for, decode_inputs
from app.config import Settings
from app.core.limits import Limits
from app.engine.device import resolve_device
from app.engine.executors._base import Executor
from benchmarks import pipe
from benchmarks.executors import offered


@dataclass(frozen=True)
class Took:
    """Of some passes over inputs."""

    inputs: int
    wall_s: float
    cpu_s: float


@final
class Bare:
    """The backbone with its inputs."""

    def __init__(self, name: str, device: str, folder: Path) -> None:
        checkpoints, left_out = load_all(Settings().model_folders(), {name})
        if left_out:
            raise RuntimeError(left_out[name])
        self._checkpoint = checkpoints[name]
        self._codec = codec_for(self._checkpoint, Limits())
        self._inputs: list[Tensor] = []
        self._at = 0
        self.executors = offered(self._checkpoint, resolve_device(device), folder)

    def prepare(self, bodies: list[bytes]) -> None:
        """Decode what the next measurements embed."""
        raws = [RawInput("bytes", body, "") for body in bodies]
        self._inputs = [one.tensor for one in decode_inputs(self._codec, raws)]

    def measure(self, executor: str, batch: int, least_inputs: int, least_s: float) -> Took:
        """Embed in forwards of `batch`, until so many inputs are through and so much time has passed."""
        chosen, inputs = self.executors[executor], 0
        self._forward(chosen, batch)
        started_s, cpu_s = time.perf_counter(), time.process_time()
        while inputs < least_inputs or time.perf_counter() - started_s < least_s:
            now = min(batch, least_inputs - inputs) if inputs < least_inputs else batch
            self._forward(chosen, now)
            inputs += now
        return Took(inputs, time.perf_counter() - started_s, time.process_time() - cpu_s)

    def _forward(self, executor: Executor, count: int) -> None:
        some = [self._inputs[(self._at + step) % len(self._inputs)] for step in range(count)]
        self._at += count
        # The copy to the host waits for the device, as an answer would.
        executor.embed([self._codec.stack(some)]).cpu()


def main() -> None:
    """`python -m benchmarks.bare CHECKPOINT DEVICE`, asked over a pipe: `null` brings inputs, all else is measured."""
    with tempfile.TemporaryDirectory(prefix="imprint-bench-") as folder, torch.no_grad():
        bare = Bare(sys.argv[1], sys.argv[2], Path(folder))
        while (came := pipe.read(sys.stdin.buffer)) is not None:
            message, payload = came
            if message is None:
                bare.prepare(payload)
                pipe.write(sys.stdout.buffer, sorted(bare.executors))
            else:
                pipe.write(sys.stdout.buffer, asdict(bare.measure(**message)))


if __name__ == "__main__":
    main()
