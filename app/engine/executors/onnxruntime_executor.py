"""Runs a backbone with ONNX Runtime, on the CPU."""

import os
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from app.core.episode import Features
from app.engine.executors._lane import Lane
from app.engine.executors._streams import StreamsExecutor, Wait

_FATAL = 4
"""Severity from which it writes to standard error itself; its errors are raised anyway."""


@final
class OnnxRuntimeExecutor(StreamsExecutor):
    """An exported backbone in sessions of its own, on as many threads as torch has."""

    name: ClassVar[str] = "onnxruntime"

    def _open(self, exported: Path) -> None:
        self._session = _session(exported, self.streams)
        self._names = [one.name for one in self._session.get_inputs()]
        if self.streams > 1:
            # One for all streams: who runs it computes.
            self._narrow = _session(exported, 1)
        self.renew()

    def renew(self) -> None:
        """Threads of its own for each stream; those that hang keep theirs."""
        lanes = self.streams if self.streams > 1 else 0
        self._lanes: list[Lane[Features]] = [Lane("imprint-stream") for _ in range(lanes)]

    def _together(self, rows: Shaped[Tensor, "n ..."], places: Int64[Tensor, " m"] | None) -> Features:
        return self._run(self._session, rows, places)

    def _begin(self, stream: int, rows: Shaped[Tensor, "n ..."], places: Int64[Tensor, " m"] | None) -> Wait:
        return self._lanes[stream].begin(partial(self._run, self._narrow, rows, places))

    def _run(self, session: Any, rows: Shaped[Tensor, "n ..."], places: Int64[Tensor, " m"] | None) -> Features:
        inputs = [one.numpy() for one in (rows, places) if one is not None]
        return torch.from_numpy(session.run(None, dict(zip(self._names, inputs, strict=True)))[0])


def _session(exported: Path, threads: int) -> Any:
    runtime = _library()
    options = runtime.SessionOptions()
    options.log_severity_level = _FATAL
    options.intra_op_num_threads = threads
    # As OpenMP's threads (decision record 7): a thread that spins for others keeps a core from decoding.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return runtime.InferenceSession(str(exported), options, providers=["CPUExecutionProvider"])


def _library() -> Any:
    """The package. On import it would begin to tell its makers what it runs: a server reports to nobody unasked."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime  # noqa: PLC0415 - an extra

    return onnxruntime
