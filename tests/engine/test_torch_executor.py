"""Padding, sorting and cutting change no answer."""

from typing import final

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float, Shaped
from torch import Tensor

from app.backbones import build
from app.backbones._base import Backbone
from app.engine.device import resolve_device
from app.engine.executors._rows import micro_batches
from app.engine.executors.torch_executor import TorchExecutor

CPU = torch.device("cpu")


@final
class ImageBackbone(Backbone):
    """Takes uint8 images of one size."""

    modality = "image"
    input_shape = (3, 4, 4)
    dim = 3

    def __init__(self) -> None:
        super().__init__()
        self.types: list[torch.dtype] = []

    def forward(self, inputs: Shaped[Tensor, "n ..."]) -> Float[Tensor, "n dim"]:
        self.types.append(inputs.dtype)
        return inputs.float().mean((2, 3))

    def micro_batch_examples(self, device_type: str) -> int:
        return 4


def texts(*lengths: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(1, 50, (1, length), generator=generator) for length in lengths]


def test_texts_of_mixed_lengths_give_the_features_that_each_gives_alone(text_backbone) -> None:
    executor = TorchExecutor(text_backbone(), CPU)
    parts = texts(5, 40, 1, 12, 40, 3)
    together = executor.embed(parts)
    alone = torch.cat([executor.embed([part]) for part in parts])
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-6)


def test_short_texts_are_not_computed_at_the_length_of_a_long_one(text_backbone) -> None:
    backbone = text_backbone()
    executor = TorchExecutor(backbone, CPU, micro_batch_tokens=64)
    executor.embed([*texts(60), *texts(*[4] * 10)])
    assert backbone.shapes == [(10, 4), (1, 60)]
    assert executor.forwards == 2


def test_what_fits_into_the_micro_batch_is_one_forward(text_backbone) -> None:
    backbone = text_backbone()
    TorchExecutor(backbone, CPU).embed(texts(3, 9, 5))
    assert backbone.shapes == [(3, 9)]


def test_padding_that_a_request_brought_along_is_trimmed(text_backbone) -> None:
    backbone = text_backbone()
    padded = torch.nn.functional.pad(torch.cat(texts(4, 4)), (0, 30))
    TorchExecutor(backbone, CPU).embed([padded])
    assert backbone.shapes == [(2, 4)]


def test_a_text_of_padding_alone_keeps_one_position(text_backbone) -> None:
    features = TorchExecutor(text_backbone(), CPU).embed([torch.zeros(1, 5, dtype=torch.int64)])
    assert torch.equal(features, torch.zeros(1, 8))


def test_images_travel_as_uint8_in_micro_batches() -> None:
    backbone = ImageBackbone()
    executor = TorchExecutor(backbone, CPU)
    images = torch.randint(0, 256, (10, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    features = executor.embed([images[:3], images[3:]])
    torch.testing.assert_close(features, images.float().mean((2, 3)))
    assert backbone.types == [torch.uint8] * 3
    assert not features.requires_grad
    assert not features.is_inference()


def test_the_executor_puts_the_backbone_into_evaluation_mode(text_backbone) -> None:
    assert not TorchExecutor(text_backbone().train(), CPU).backbone.training


def test_it_beats_before_every_forward() -> None:
    beats: list[int] = []
    executor = TorchExecutor(ImageBackbone(), CPU)
    executor.embed([torch.zeros(9, 3, 4, 4, dtype=torch.uint8)], lambda: beats.append(1))
    assert len(beats) == executor.forwards == 3


def test_the_micro_batch_grows_back_after_memory_was_short(bench) -> None:
    backbone = bench().backbone
    executor = TorchExecutor(backbone, CPU)
    backbone.room = 4
    executor.embed([torch.ones(8, 1)])
    backbone.room = 1000
    for _ in range(64):
        executor.embed([torch.ones(1, 1)])
    backbone.batches.clear()
    executor.embed([torch.ones(64, 1)])
    assert [len(batch) for batch in backbone.batches] == [64]


def test_an_error_that_is_not_about_memory_is_not_tried_again(bench) -> None:
    backbone = bench().backbone
    backbone.poison[1.0] = RuntimeError("a bug")
    with pytest.raises(RuntimeError, match="a bug"):
        TorchExecutor(backbone, CPU).embed([torch.ones(8, 1)])
    assert len(backbone.batches) == 1


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 100), min_size=1, max_size=60), st.integers(1, 16), st.integers(1, 300), st.integers(0, 500)
)
def test_micro_batches_hold_every_row_once_and_keep_their_bounds(
    lengths: list[int], rows: int, tokens: int, start: int
) -> None:
    order, sizes = micro_batches(torch.tensor(lengths)[:, None], rows, tokens, start)
    assert sorted(order.tolist()) == list(range(len(lengths)))
    assert sum(sizes) == len(lengths)
    for chosen in torch.split(order, sizes):
        longest = max(lengths[row] for row in chosen.tolist())
        assert len(chosen) <= rows
        assert len(chosen) == 1 or len(chosen) * longest <= tokens


def cost(lengths: list[int], sizes: list[int], start: int, packed: bool) -> float:
    ordered = iter(sorted(lengths))
    longest = [[next(ordered) for _ in range(size)][-1] for size in sizes]
    if packed:
        grids = [size * most * (0.125 + most * 0.00125) for size, most in zip(sizes, longest, strict=True)]
        return sum(lengths) + sum(start + grid for grid in grids)
    return sum(start + size * most for size, most in zip(sizes, longest, strict=True))


def all_cuts(rows: int) -> list[list[int]]:
    return [[rows], *([first, *rest] for first in range(1, rows) for rest in all_cuts(rows - first))]


@settings(deadline=None)
@given(st.lists(st.integers(1, 30) | st.integers(31, 300), min_size=1, max_size=9), st.integers(0, 40), st.booleans())
def test_no_other_way_to_cut_texts_into_forwards_is_cheaper(lengths: list[int], start: int, packed: bool) -> None:
    _, sizes = micro_batches(torch.tensor(lengths)[:, None], 32, 10_000, start, packed)
    least = min(cost(lengths, cut, start, packed) for cut in all_cuts(len(lengths)))
    assert cost(lengths, sizes, start, packed) == pytest.approx(least)


def test_the_device_is_named_or_found() -> None:
    assert resolve_device("cpu") == CPU
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ValueError, match="choose auto, cpu or cuda"):
        resolve_device("tpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_asking_for_cuda_without_cuda_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="use auto or cpu"):
        resolve_device("cuda")


def test_float32_on_cuda_is_no_tf32(monkeypatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    # A backbone without weights asks nothing of a device that may not be there.
    backbone = build("identity", {})
    TorchExecutor(backbone, CPU)
    assert torch.backends.cudnn.allow_tf32
    TorchExecutor(backbone, torch.device("cuda"))
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_convolutions_on_cuda_keep_all_of_a_float32(monkeypatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    backbone = build("conv4", {"image_size": 32, "channels": 3}).eval()
    images = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = TorchExecutor(backbone, CPU).embed([images])
    features = TorchExecutor(backbone, resolve_device("cuda")).embed([images])
    # TF32 is off by some 1e-3.
    torch.testing.assert_close(features.cpu(), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_the_answers_of_the_cpu(text_backbone) -> None:
    backbone = text_backbone()
    parts = texts(5, 40, 1, 12, 40, 3)
    expected = TorchExecutor(backbone, CPU).embed(parts)
    features = TorchExecutor(backbone, resolve_device("cuda")).embed(parts)
    assert features.device.type == "cuda"
    torch.testing.assert_close(features.cpu(), expected, rtol=1e-5, atol=1e-5)
