"""How work for the device can fail, beside the families that everyone shares."""

from typing import Final, final

import torch

from app.core.errors import ImprintError, Unavailable

_NO_MEMORY: Final = (
    "can't allocate memory",
    "Failed to allocate memory",
    "std::bad_alloc",
    "CUDA error: out of memory",
    "_STATUS_ALLOC_FAILED",
    "unable to find an engine to execute this computation",
)
"""What torch, ONNX Runtime and any C++ say; on a CPU none of them has an exception type of its own. On CUDA it is what
pinned memory says, and cuBLAS, cuSOLVER and cuDNN of handles and work spaces, which are not from torch's allocator."""


@final
class EngineFailure(ImprintError):
    """A backbone or a head raised something without a name; only the work that met it fails."""

    code = "engine-failure"
    title = "The computation failed"


@final
class EngineDown(Unavailable):
    """The device thread died, hangs, or does not run yet; it is started again by itself."""

    code = "engine-down"
    title = "The engine is down"


@final
class Draining(Unavailable):
    """The server is shutting down: it finishes what it has and takes nothing new."""

    code = "draining"
    title = "The server is shutting down"


@final
class NobodyWaits(Exception):
    """Ends a head whose caller has gone; no one sees it."""


@final
class DeviceMemoryFull(Unavailable):
    """Not even one example fits into the device's free memory."""

    code = "device-memory-full"
    title = "The device is out of memory"

    def __init__(self) -> None:
        super().__init__("The device has no memory left for this request; try again, or send less.", retry_after_s=1.0)


def is_out_of_memory(error: BaseException) -> bool:
    """Does this error say that the device, or the machine, ran out of memory?"""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    return any(words in text for words in _NO_MEMORY)


def is_of_the_device(error: BaseException) -> bool:
    """Does this error say something about the device, or its memory, rather than about what it was asked?

    By its words: older versions of torch have no `torch.AcceleratorError`, and newer ones say the same in it.
    """
    return is_out_of_memory(error) or "CUDA error" in str(error)
