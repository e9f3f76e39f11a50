"""ResNet-12: small photographs to a few hundred numbers, the larger network of the few-shot papers."""

from dataclasses import dataclass
from typing import ClassVar, Final, final

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from app.backbones._base import Backbone, Modality
from app.backbones._convolution import channels_last, convolved
from app.core.errors import InvalidSetting

SLOPE: Final = 0.1
"""Of the leaky ReLU, below zero."""

MEAN: Final = 127.5
STD: Final = 64.0
"""About the mean and spread of a photograph's pixels, of 0..255; the first normalisation sees to the rest."""


@dataclass(frozen=True)
class Settings:
    """The shape of the network: filters of each of the four blocks, side and channels of its square input.

    In training, `drop_rate` of a block's places are dropped in squares of `drop_block` (DropBlock) after the last two
    blocks, and single numbers after the first two. Raises: `InvalidSetting`.
    """

    widths: tuple[int, ...] = (64, 160, 320, 640)
    image_size: int = 32
    channels: int = 3
    drop_rate: float = 0.0
    drop_block: int = 2

    def __post_init__(self) -> None:
        _check(len(self.widths) == 4 and min(self.widths) >= 1, "widths", "four numbers of 1 or more")
        _check(self.channels in (1, 3), "channels", "1 or 3")
        _check(self.image_size >= 16, "image_size", "16 or more")
        _check(0 <= self.drop_rate < 1, "drop_rate", "at least 0 and below 1")
        _check(self.drop_block >= 1, "drop_block", "1 or more")


@final
class ResNet12(Backbone):
    """Four residual blocks of three convolutions each, halving the sides, then the mean over all places.

    Input: uint8 (n, channels, height, width), RGB or grey; scaled here to about -2..2.
    Output: float (n, dim); dim is the last block's filters, 640 by default.
    Paper: Lee et al., CVPR 2019, arXiv:1904.03758, section 4.1 (MetaOptNet); DropBlock: Ghiasi, Lin, Le, NeurIPS
    2018, arXiv:1810.12890, algorithm 1.
    Departs from it: the mean over places instead of all of them (as Tian et al., ECCV 2020, arXiv:2003.11539); the
    share of dropped places is constant from the start.
    """

    modality: ClassVar[Modality] = "image"
    stacks: ClassVar[bool] = True

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.input_shape = (settings.channels, settings.image_size, settings.image_size)
        self.dim: int = settings.widths[-1]
        channels = (settings.channels, *settings.widths)
        squares = (1, 1, settings.drop_block, settings.drop_block)
        self.blocks = nn.Sequential(
            *(_Block(channels[i], channels[i + 1], settings.drop_rate, squares[i]) for i in range(4))
        )

    def forward(self, inputs: UInt8[Tensor, "n channels height width"]) -> Float[Tensor, "n dim"]:
        """Embed images. In evaluation mode each row depends on its own image alone."""
        weight: Tensor = next(self.blocks.parameters())
        places: Tensor = self.blocks((channels_last(inputs, weight.dtype) - MEAN) / STD)
        return places.mean((2, 3))

    def micro_batch_examples(self, device_type: str) -> int:
        """A forward of 32 keeps a CPU's caches and threads busy."""
        return 32 if device_type == "cpu" else 1024


@final
class _Block(nn.Module):
    """Three times convolution and batch normalisation beside a 1x1 shortcut; leaky ReLU, 2x2 pooling, dropping."""

    def __init__(self, channels: int, filters: int, drop_rate: float, drop_square: int) -> None:
        super().__init__()
        inner = [_conv_norm(channels if i == 0 else filters, filters, 3) for i in range(3)]
        self.first, self.second, self.third = inner
        self.shortcut = _conv_norm(channels, filters, 1)
        self.drop_rate = drop_rate
        self.drop_square = drop_square

    def forward(self, images: Float[Tensor, "n channels height width"]) -> Float[Tensor, "n filters height2 width2"]:
        inner = _active(self.second(_active(self.first(images))))
        whole = _active(self.third(inner) + self.shortcut(images))
        pooled = nn.functional.max_pool2d(whole, 2)
        if not self.training or not self.drop_rate:
            return pooled
        return drop_squares(pooled, self.drop_rate, self.drop_square)


def drop_squares(
    images: Float[Tensor, "n filters height width"], rate: float, square: int
) -> Float[Tensor, "n filters height width"]:
    """Zero squares of places at random, about `rate` of them, and scale the rest up by as much."""
    height, width = images.shape[-2:]
    side = min(square, height, width)
    if side == 1:
        return nn.functional.dropout(images, rate)
    centres = (height - side + 1) * (width - side + 1)
    chance = rate * height * width / side**2 / centres
    seeds = torch.rand(*images.shape[:2], height - side + 1, width - side + 1, device=images.device) < chance
    dropped = nn.functional.max_pool2d(nn.functional.pad(seeds.to(images.dtype), [side - 1] * 4), side, stride=1)
    kept = 1 - dropped
    return images * kept * (kept.numel() / kept.sum().clamp_min(1))


@final
class _ConvNorm(nn.Sequential):
    """A convolution, then its normalisation."""

    def forward(self, images: Float[Tensor, "n channels height width"]) -> Float[Tensor, "n filters height width"]:
        convolution, norm = self
        assert isinstance(convolution, nn.Conv2d)  # noqa: S101 (made so)
        return convolved(images, convolution, norm)


def _conv_norm(channels: int, filters: int, kernel: int) -> _ConvNorm:
    convolution = nn.Conv2d(channels, filters, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, a=SLOPE, mode="fan_out", nonlinearity="leaky_relu")
    return _ConvNorm(convolution, nn.BatchNorm2d(filters))


def _active(images: Tensor) -> Tensor:
    return nn.functional.leaky_relu(images, SLOPE)


def _check(fine: bool, name: str, wanted: str) -> None:
    if not fine:
        raise InvalidSetting(
            f"The setting {name!r} of resnet12 must be {wanted}.", pointer=f"/architecture_settings/{name}"
        )
