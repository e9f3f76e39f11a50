"""Runs a backbone with OpenVINO, on the CPU."""

import hashlib
import json
import logging
import sys
import tempfile
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar, Final, final

import numpy as np
import torch
from jaxtyping import Int64, Shaped, UInt8
from torch import Tensor

from app.core.episode import Features
from app.engine.executors._streams import StreamsExecutor, Wait
from app.engine.executors.machine import cpu

_logger = logging.getLogger(__name__)

_DIGEST: Final = 64
"""Bytes in front of a compiled model: its SHA-256, hex. As many keep the model on a boundary of 64."""


@final
class OpenVinoExecutor(StreamsExecutor):
    """An exported backbone, compiled for this CPU, on as many threads as torch has.

    What was compiled is kept beside the export: to compile MiniLM takes five times as long as to read it.
    """

    name: ClassVar[str] = "openvino"

    def _open(self, exported: Path) -> None:
        self._library = _library()
        options = {
            # Without it, a CPU that knows bfloat16 or float16 computes in that.
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": self.streams,
            "NUM_STREAMS": 1,
            # The cores are shared with decoding and HTTP: threads stay free to move.
            "ENABLE_CPU_PINNING": False,
        }
        each = [options] if self.streams == 1 else [options, options | {"NUM_STREAMS": self.streams}]
        # The models read their weights from that memory and hold no reference themselves.
        (self._whole, *self._parted), self._memory = _models(self._library, exported, each)
        self.renew()

    def renew(self) -> None:
        """Other requests: one that has not ended refuses to begin again."""
        self._request = self._whole.create_infer_request()
        self._requests = [one.create_infer_request() for one in self._parted for _ in range(self.streams)]

    def _together(self, rows: Shaped[Tensor, "n ..."], places: Int64[Tensor, " m"] | None) -> Features:
        return self._started(self._request, rows, places)()

    def _begin(self, stream: int, rows: Shaped[Tensor, "n ..."], places: Int64[Tensor, " m"] | None) -> Wait:
        return self._started(self._requests[stream], rows, places)

    def _started(self, request: Any, rows: Shaped[Tensor, "n ..."], places: Int64[Tensor, " m"] | None) -> Wait:
        # Held until it is computed: the library shares the memory and would not keep it.
        held = [one.contiguous().numpy() for one in (rows, places) if one is not None]
        for index, one in enumerate(held):
            request.set_input_tensor(index, self._library.Tensor(one, shared_memory=True))
        request.start_async()

        def wait(_held: object = held) -> Features:
            request.wait()
            # The next forward writes to the same memory.
            return torch.from_numpy(request.get_output_tensor().data.copy())

        return wait


def _library() -> Any:
    """The package, without its telemetry: that would report every import to its makers, unasked."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type] # so "cannot be imported" is spelt
    import openvino  # noqa: PLC0415 - an extra

    return openvino


_MAKING: Final = Lock()
"""Held while the core is asked for: backbones are opened in several threads, and `cache` lets two make one each."""


def _the_core() -> Any:
    with _MAKING:
        return _core()


@cache
def _core() -> Any:
    """The one of this process. Each sets up a stack for signals in the thread that makes it, and in which order they
    go decides what that thread is left with: with several, that was memory given back, and the next signal killed."""
    return _library().Core()


def _models(library: Any, exported: Path, each: list[dict[str, object]]) -> tuple[list[Any], object]:
    """The compiled model by each of these options, and the memory that they stand on: as it was kept, or made anew.

    What is compiled by the first of the options serves all of them.
    """
    core = _the_core()
    parts = json.dumps([library.get_version(), cpu(), each[0]], sort_keys=True)
    kept = exported.with_name(f"{exported.stem}-{hashlib.sha256(parts.encode()).hexdigest()[:16]}.openvino")
    if kept.is_file():
        try:
            memory = _mapped(kept)
            return _imported(library, core, memory, each), memory
        except (OSError, ValueError, RuntimeError) as error:
            _logger.warning("a compiled backbone cannot be read and is made anew: %s: %s", kept.name, error)
    content = core.compile_model(exported, "CPU", each[0]).export_model().getvalue()
    memory = _mapped(kept) if _keep(content, kept) else np.frombuffer(bytearray(content), np.uint8)
    return _imported(library, core, memory, each), memory


def _imported(library: Any, core: Any, memory: UInt8[np.ndarray, " size"], each: list[dict[str, object]]) -> list[Any]:
    return [core.import_model(library.Tensor(memory, shared_memory=True), "CPU", options) for options in each]


def _mapped(kept: Path) -> UInt8[np.ndarray, " size"]:
    """A kept model, mapped. Raises: `ValueError` where it is not what was written, `OSError`."""
    # "c", since the library takes only what it might write to.
    memory = np.memmap(kept, np.uint8, mode="c")
    if memory[:_DIGEST].tobytes() != hashlib.sha256(memory[_DIGEST:].data).hexdigest().encode():
        raise ValueError("it is damaged")
    return memory[_DIGEST:]


def _keep(content: bytes, path: Path) -> bool:
    """Whether there was room for it."""
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".new.", delete=False) as stream:
            stream.write(hashlib.sha256(content).hexdigest().encode())
            stream.write(content)
        Path(stream.name).replace(path)
        return True
    except OSError as error:
        _logger.warning("a compiled backbone cannot be kept, and is compiled at every start: %s", error)
        return False
