"""What every executor is: a way to run a checkpoint's frozen backbone."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from app.core.episode import Features


def no_beat() -> None:
    """For callers without a heartbeat."""


def is_out_of_memory(error: BaseException) -> bool:
    """Does this error say that the device, or the machine, ran out of memory?"""
    # The CPU's allocator has no exception type of its own.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


class Executor(ABC):
    """Runs one frozen backbone on one device. Only the device thread calls it."""

    device: torch.device
    dim: int | None
    """Size of an embedding; `None` means that of the input."""
    forwards: int = 0
    """Forwards run until now, retries too."""

    def no_features(self, inputs: Tensor) -> Features:
        """What a head gets for a work without rows: shape (0, dim)."""
        of_input = inputs.shape[-1] if inputs.ndim > 1 else 0
        return torch.empty(0, of_input if self.dim is None else self.dim, device=self.device)

    @abstractmethod
    def embed(self, parts: Sequence[Tensor], beat: Callable[[], None] = no_beat) -> Features:
        """Embed the rows of all parts (each (n_i, ...), on the CPU) in their order.

        The parts agree in type and in the sizes of all axes that are not padded. `beat` is called
        between forwards; what it raises goes through. The features are on the device, float32.
        Raises: `DeviceMemoryFull`, and what the backbone raises.
        """
