"""Runs a backbone with ONNX Runtime, on the CPU."""

import os
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from app.backbones._base import Backbone
from app.core.episode import Features
from app.engine.executors._base import Executor

_FATAL = 4
"""Severity from which it writes to standard error itself; its errors are raised anyway."""


@final
class OnnxRuntimeExecutor(Executor):
    """An exported backbone in a session of its own, on as many threads as torch has."""

    name: ClassVar[str] = "onnxruntime"

    def __init__(self, backbone: Backbone, exported: Path, micro_batch_tokens: int | None = None) -> None:
        super().__init__(backbone, torch.device("cpu"), micro_batch_tokens)
        runtime = _library()
        options = runtime.SessionOptions()
        options.log_severity_level = _FATAL
        options.intra_op_num_threads = torch.get_num_threads()
        # As OpenMP's threads (decision record 7): a thread that spins for others keeps a core from decoding.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = runtime.InferenceSession(str(exported), options, providers=["CPUExecutionProvider"])
        self._names = [one.name for one in self._session.get_inputs()]

    def _forward(self, rows: Shaped[Tensor, "n ..."], places: Int64[Tensor, " m"] | None = None) -> Features:
        inputs = [rows.numpy()] if places is None else [rows.numpy(), places.numpy()]
        named = dict(zip(self._names, inputs, strict=True))
        return torch.from_numpy(self._session.run(None, named)[0])


def _library() -> Any:
    """The package. On import it would begin to tell its makers what it runs: a server reports to nobody unasked."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime  # noqa: PLC0415 - an extra

    return onnxruntime
