"""Copies to a device: from pinned memory where there is any."""

from typing import Any

import pytest
import torch
from torch import Tensor

from app.engine.copies import SMALL_BYTES, pinned, to_device

gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def scarce(error: RuntimeError) -> Tensor:
    """A tensor that the system has no pinned memory for."""

    class Scarce(Tensor):
        def pin_memory(self, *_: Any) -> Tensor:
            raise error

    return torch.ones(3).as_subclass(Scarce)


def test_what_cannot_be_pinned_for_lack_of_memory_is_copied_as_it_is() -> None:
    tensor = scarce(RuntimeError("CUDA error: out of memory"))
    assert pinned(tensor) is tensor


def test_another_failure_to_pin_is_told() -> None:
    with pytest.raises(RuntimeError, match="no device"):
        pinned(scarce(RuntimeError("there is no device")))


def test_on_a_cpu_nothing_is_copied_or_pinned() -> None:
    tensor = torch.ones(SMALL_BYTES)
    assert to_device(tensor, torch.device("cpu")) is tensor


@pytest.mark.parametrize("name", ["cpu", pytest.param("cuda", marks=gpu)])
@pytest.mark.parametrize("size_bytes", [8, SMALL_BYTES, SMALL_BYTES + 8, 2**24])
def test_copies_whose_sources_are_gone_hold_what_they_held(name: str, size_bytes: int) -> None:
    def row(seed: int) -> Tensor:
        return torch.randint(2**40, (size_bytes // 8,), generator=torch.Generator().manual_seed(seed))

    # One after another and with nobody waiting, so that pinned memory that was let go too early would be overwritten.
    copies = [to_device(row(seed), torch.device(name)) for seed in range(8)]
    for seed, copy in enumerate(copies):
        assert copy.device.type == name
        assert torch.equal(copy.cpu(), row(seed))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_for_cuda_memory_is_pinned() -> None:
    assert pinned(torch.ones(3)).is_pinned()
