"""EfficientNet-Lite0: photographs of 224x224 to 1280 numbers."""

import math
from dataclasses import dataclass
from typing import ClassVar, Final, final

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from app.backbones._base import Backbone, Modality

EMBEDDING_DIM: Final = 1280
NORM_EPS: Final = 1e-3
NORM_MOMENTUM: Final = 0.01

# Repeats, kernel, stride of the first, expansion, channels: the paper's table 1 for B0. The lite
# networks keep it, and leave out squeeze-and-excitation and swish.
_STAGES: Final = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM_CHANNELS: Final = 32


@dataclass(frozen=True)
class Settings:
    """The shape of the network: `image_size` is the side of its square input, in pixels."""

    image_size: int = 224


@final
class EfficientNetLite0(Backbone):
    """Mobile inverted bottlenecks with ReLU6, then the mean over all places.

    Input: uint8 (n, 3, height, width), RGB; normalised here as (x - 127) / 128.
    Output: float (n, 1280), each 0 or more (a mean of ReLU6).
    Paper: Tan and Le, ICML 2019, arXiv:1905.11946, table 1; the lite variant without
    squeeze-and-excitation, with ReLU6, and with stem and head of fixed width.
    Departs from it: no classifier layer. Padding is that of TensorFlow ("same": the odd pixel at the
    end), as the weights were trained there.
    """

    modality: ClassVar[Modality] = "image"
    dim: int = EMBEDDING_DIM

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.input_shape = (3, settings.image_size, settings.image_size)
        self.stem = _ConvNorm(3, _STEM_CHANNELS, kernel=3, stride=2)
        blocks: list[_Block] = []
        channels = _STEM_CHANNELS
        for repeats, kernel, stride, expansion, out in _STAGES:
            for repeat in range(repeats):
                blocks.append(_Block(channels, out, kernel, stride if repeat == 0 else 1, expansion))
                channels = out
        self.blocks = nn.Sequential(*blocks)
        self.head = _ConvNorm(channels, EMBEDDING_DIM)

    def forward(self, inputs: UInt8[Tensor, "n 3 height width"]) -> Float[Tensor, "n dim"]:
        """Embed photographs. In evaluation mode each row depends on its own image alone."""
        # Convolutions on a CPU are up to twice as fast in this memory layout; it carries through.
        pixels = inputs.to(self.stem.conv.weight.dtype, memory_format=torch.channels_last)
        places: Tensor = self.head(self.blocks(self.stem((pixels - 127) / 128)))
        return places.mean((2, 3))

    def micro_batch_examples(self, device_type: str) -> int:
        """Few on a CPU: past 8 the activations leave its caches and each image costs more."""
        return 8 if device_type == "cpu" else 256


@final
class _ConvNorm(nn.Module):
    """Convolution with TensorFlow's "same" padding, batch normalisation, ReLU6 where `active`."""

    def __init__(
        self, channels: int, out: int, *, kernel: int = 1, stride: int = 1, groups: int = 1, active: bool = True
    ) -> None:
        super().__init__()
        self.kernel, self.stride, self.active = kernel, stride, active
        # A stride of 1 pads alike on both sides, which the convolution does itself without a copy.
        padding = kernel // 2 if stride == 1 else 0
        self.conv = nn.Conv2d(channels, out, kernel, stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out, eps=NORM_EPS, momentum=NORM_MOMENTUM)

    def forward(self, images: Float[Tensor, "n channels height width"]) -> Float[Tensor, "n out height2 width2"]:
        if self.stride > 1:
            # Whole numbers also while an exporter traces this, which hands out tensors.
            top, bottom = self._padding(int(images.shape[2]))
            left, right = self._padding(int(images.shape[3]))
            images = nn.functional.pad(images, (left, right, top, bottom))
        out = self.norm(self.conv(images)) if self.training else self._fused(images)
        return nn.functional.relu6(out, inplace=True) if self.active else out

    def _fused(self, images: Float[Tensor, "n channels height width"]) -> Float[Tensor, "n out height2 width2"]:
        """Convolve with the normalisation folded into the kernel.

        One pass less over memory: a quarter of the time of a batch of 8 on a CPU. The kernels are
        small, so folding them anew costs next to nothing and no stale copy can be served.
        """
        mean, variance = self.norm.get_buffer("running_mean"), self.norm.get_buffer("running_var")
        scale = self.norm.weight * torch.rsqrt(variance + NORM_EPS)
        kernel = self.conv.weight * scale[:, None, None, None]
        conv = self.conv
        shift = self.norm.bias - mean * scale
        return nn.functional.conv2d(images, kernel, shift, conv.stride, conv.padding, groups=conv.groups)

    def _padding(self, size: int) -> tuple[int, int]:
        """Zeros before and after an axis so that the output has ceil(size / stride) places."""
        total = max((math.ceil(size / self.stride) - 1) * self.stride + self.kernel - size, 0)
        return total // 2, total - total // 2


@final
class _Block(nn.Module):
    """Widen by 1x1, filter each channel, narrow by 1x1; add the input where the shapes agree."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels * expansion
        self.adds_input = stride == 1 and channels == out
        self.expand = _ConvNorm(channels, wide) if expansion > 1 else nn.Identity()
        self.depthwise = _ConvNorm(wide, wide, kernel=kernel, stride=stride, groups=wide)
        self.project = _ConvNorm(wide, out, active=False)

    def forward(self, images: Float[Tensor, "n channels height width"]) -> Float[Tensor, "n out height2 width2"]:
        narrow: Tensor = self.project(self.depthwise(self.expand(images)))
        return narrow + images if self.adds_input else narrow
