"""Several processes that train one run together: each takes its share of every step's episodes.

Started by torchrun, they find each other through torch.distributed: NCCL between GPUs, gloo between CPUs.
"""

import gc
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import torch
import torch.distributed.nn  # before there is a group: its functions hold the group that they find as a default
from torch import Tensor, distributed

from app.training.errors import BadRecipe


@dataclass(frozen=True)
class Ranks:
    """Which process this is, of how many, and the device it computes on."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def leads(self) -> bool:
        """Whether this is the process that reports and writes."""
        return self.rank == 0

    @property
    def words(self) -> str:
        """The hardware: "cpu (x86_64, 2 threads)", "2 x NVIDIA H100"."""
        if self.device.type == "cuda":
            name = torch.cuda.get_device_name(self.device)
            return name if self.world == 1 else f"{self.world} x {name}"
        threads = f"{platform.machine()}, {torch.get_num_threads()} threads"
        return f"cpu ({threads})" if self.world == 1 else f"cpu ({self.world} processes; {threads} each)"

    def share(self, numbers: Sequence[int]) -> list[int]:
        """Those of the numbers that fall to this process."""
        return list(numbers[self.rank :: self.world])

    def sum_(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over the processes, in place; it lies on the device."""
        if self.world > 1:
            distributed.all_reduce(tensor)
        return tensor

    def total(self, count: int) -> int:
        """The sum of what the processes count; all get the same."""
        return int(self.sum_(torch.tensor(count, device=self.device))) if self.world > 1 else count

    def any(self, *said: bool) -> tuple[bool, ...]:
        """Of each statement, whether any of the processes says so; all get the same answers."""
        if self.world == 1:
            return said
        heard: list[int] = self.sum_(torch.tensor(said, dtype=torch.int32, device=self.device)).tolist()
        return tuple(map(bool, heard))

    def leaders(self, choice: str) -> str:
        """What the first process chose, for all."""
        if self.world == 1:
            return choice
        told = [choice]
        distributed.broadcast_object_list(told, src=0, device=self.device)
        return told[0]


ALONE: Final = Ranks()


@contextmanager
def connected(device: str) -> Iterator[Ranks]:
    """Join the other processes where torchrun started this one, once; else be the only one.

    `device` is "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:N". Raises: `BadRecipe` where there is no
    such device.
    """
    if not distributed.is_torchelastic_launched():
        yield Ranks(device=_device(device, 0))
        return
    place = _device(device, distributed.get_node_local_rank())
    if place.type == "cuda":
        torch.cuda.set_device(place)
    joined = distributed.is_initialized()
    if not joined:
        distributed.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield Ranks(distributed.get_rank(), distributed.get_world_size(), place)
    finally:
        if not joined:
            distributed.destroy_process_group()
            # Only with its last reference does a group of gloo join its threads. One that lets go of a tensor while
            # the interpreter ends would abort the process; loops of references must not hold it until then.
            gc.collect()


def _device(name: str, local_rank: int) -> torch.device:
    there = torch.cuda.device_count()
    if name == "auto":
        name = "cuda" if there else "cpu"
    device = torch.device(name)
    if device.type == "cpu":
        return device
    index = device.index if device.index is not None else local_rank
    if device.type != "cuda" or index >= there:
        raise BadRecipe(f"There is no device {name!r} for this process; torch sees {there} CUDA devices.")
    return torch.device("cuda", index)
