"""Runs a backbone with OpenVINO, on the CPU."""

import hashlib
import json
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any, ClassVar, Final, final

import numpy as np
import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from app.backbones._base import Backbone
from app.core.episode import Features
from app.engine.executors._base import Executor
from app.engine.executors.machine import cpu

_logger = logging.getLogger(__name__)

_DIGEST: Final = 64
"""Bytes in front of a compiled model: its SHA-256, hex. As many keep the model on a boundary of 64."""


@final
class OpenVinoExecutor(Executor):
    """An exported backbone, compiled for this CPU, on as many threads as torch has.

    What was compiled is kept beside the export: to compile MiniLM takes five times as long as to read it.
    """

    name: ClassVar[str] = "openvino"

    def __init__(self, backbone: Backbone, exported: Path, micro_batch_tokens: int | None = None) -> None:
        super().__init__(backbone, torch.device("cpu"), micro_batch_tokens)
        self._library = _library()
        options = {
            # Without it, a CPU that knows bfloat16 or float16 computes in that.
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
            # The cores are shared with decoding and HTTP: threads stay free to move.
            "ENABLE_CPU_PINNING": False,
        }
        model, memory = _compiled(self._library, exported, options)
        self._request = model.create_infer_request()
        # The model reads its weights from there and holds no reference itself.
        self._memory = memory

    def _forward(self, rows: Shaped[Tensor, "n ..."], places: Int64[Tensor, " m"] | None = None) -> Features:
        # Held until it is computed: the library shares the memory and would not keep it.
        held = [one.contiguous().numpy() for one in (rows, places) if one is not None]
        for index, one in enumerate(held):
            self._request.set_input_tensor(index, self._library.Tensor(one, shared_memory=True))
        self._request.infer()
        # The next forward writes to the same memory.
        return torch.from_numpy(self._request.get_output_tensor().data.copy())


def _library() -> Any:
    """The package, without its telemetry: that would report every import to its makers, unasked."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type] # so "cannot be imported" is spelt
    import openvino  # noqa: PLC0415 - an extra

    return openvino


def _compiled(library: Any, exported: Path, options: dict[str, object]) -> tuple[Any, object]:
    """The compiled model and the memory that it stands on: as it was kept, or made and kept."""
    core = library.Core()
    parts = json.dumps([library.get_version(), cpu(), options], sort_keys=True)
    kept = exported.with_name(f"{exported.stem}-{hashlib.sha256(parts.encode()).hexdigest()[:16]}.openvino")
    if kept.is_file():
        try:
            # Mapped; "c", since the library takes only what it might write to.
            memory = np.memmap(kept, np.uint8, mode="c")
            if memory[:_DIGEST].tobytes() == hashlib.sha256(memory[_DIGEST:].data).hexdigest().encode():
                return core.import_model(library.Tensor(memory[_DIGEST:], shared_memory=True), "CPU", options), memory
            _logger.warning("a compiled backbone is damaged and is made anew: %s", kept.name)
        except (OSError, ValueError, RuntimeError) as error:
            _logger.warning("a compiled backbone cannot be read and is made anew: %s", error)
    model = core.compile_model(exported, "CPU", options)
    _keep(model.export_model().getvalue(), kept)
    return model, None


def _keep(content: bytes, path: Path) -> None:
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".new.", delete=False) as stream:
            stream.write(hashlib.sha256(content).hexdigest().encode())
            stream.write(content)
        Path(stream.name).replace(path)
    except OSError as error:
        _logger.warning("a compiled backbone cannot be kept, and is compiled at every start: %s", error)
