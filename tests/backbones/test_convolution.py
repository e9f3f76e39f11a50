"""The layout of pictures, and normalisation folded into a convolution."""

import pytest
import torch
from torch import nn

from app.backbones._convolution import channels_last, convolved


def _layers(norm: nn.Module, bias: bool) -> tuple[nn.Conv2d, nn.Module]:
    generator = torch.Generator().manual_seed(0)
    convolution = nn.Conv2d(3, 8, 3, padding=1, bias=bias).double()
    norm = norm.double()
    for one in [*convolution.parameters(), *norm.parameters()]:
        one.data = torch.randn(one.shape, generator=generator, dtype=torch.float64)
    if isinstance(norm, nn.BatchNorm2d):
        norm.running_mean = torch.randn(8, generator=generator, dtype=torch.float64)
        norm.running_var = torch.rand(8, generator=generator, dtype=torch.float64) + 0.1
    return convolution, norm


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(5, 3, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("mode", ["training", "evaluation"])
@pytest.mark.parametrize("kind", ["batch", "group"])
def test_the_outcome_is_that_of_both_layers_one_after_the_other(kind, mode, bias, images):
    convolution, norm = _layers(nn.BatchNorm2d(8) if kind == "batch" else nn.GroupNorm(4, 8), bias)
    norm.train(mode == "training")
    weights = [*convolution.parameters(), *norm.parameters()]
    found = convolved(images, convolution, norm)
    expected = norm(convolution(images))
    torch.testing.assert_close(found, expected)
    pull = torch.rand(found.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    pairs = zip(torch.autograd.grad(found, weights, pull), torch.autograd.grad(expected, weights, pull), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-8)


def test_running_statistics_follow_training_batches_alone(images):
    convolution, norm = _layers(nn.BatchNorm2d(8), True)
    before = norm.running_mean.clone()
    convolved(images, convolution, norm.eval())
    assert torch.equal(norm.running_mean, before)
    convolved(images, convolution, norm.train())
    assert not torch.equal(norm.running_mean, before)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_channels_of_a_pixel_lie_side_by_side(channels):
    pixels = torch.randint(0, 256, (4, channels, 6, 5), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    found = channels_last(pixels, torch.float32)
    expected = pixels.to(torch.float32, memory_format=torch.channels_last)
    assert torch.equal(found, expected)
    assert found.stride() == expected.stride()
    several = torch.func.vmap(lambda one: channels_last(one, torch.float32))(pixels[None].expand(2, -1, -1, -1, -1))
    assert torch.equal(several[1], expected)
