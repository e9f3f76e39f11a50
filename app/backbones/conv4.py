"""Conv4: glyphs of 28x28 to 64 numbers, the small network of the few-shot papers."""

from dataclasses import dataclass
from typing import ClassVar, Final, final

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from app.backbones._base import Backbone, Modality

BLOCKS: Final = 4
WHITE: Final = 255


@dataclass(frozen=True)
class Settings:
    """The shape of the network: filters of each block, and the side of its square input in pixels."""

    filters: int = 64
    image_size: int = 28


@final
class Conv4(Backbone):
    """Four blocks of convolution, batch normalisation, max-pooling and ReLU.

    Input: uint8 (n, 1, height, width), grey, ink 255 on 0; scaled to 0..1 here.
    Output: float (n, dim), each 0 or more; dim is filters * (image_size // 16) ** 2, 64 by default.
    Paper: Vinyals et al., NeurIPS 2016, arXiv:1606.04080, section 4.1.1; Snell, Swersky, Zemel,
    NeurIPS 2017, arXiv:1703.05175, section 3.1.
    Departs from it: nothing that changes a number (ReLU follows the pooling, which commutes with it
    and leaves it a quarter of the work).
    """

    modality: ClassVar[Modality] = "image"

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.input_shape = (1, settings.image_size, settings.image_size)
        self.dim: int = settings.filters * (settings.image_size // 2**BLOCKS) ** 2
        channels = (1, *[settings.filters] * BLOCKS)
        self.blocks = nn.Sequential(*(_Block(channels[i], channels[i + 1]) for i in range(BLOCKS)))

    def forward(self, inputs: UInt8[Tensor, "n 1 height width"]) -> Float[Tensor, "n dim"]:
        """Embed glyphs. In evaluation mode each row depends on its own glyph alone."""
        weight: Tensor = next(self.blocks.parameters())
        # On a CPU every layer after it follows this memory layout, and an embedding takes a third of the time.
        ink = inputs.to(weight.dtype, memory_format=torch.channels_last) / WHITE
        places: Tensor = self.blocks(ink)
        return places.flatten(1)

    def micro_batch_examples(self, device_type: str) -> int:
        """Few on a CPU: the first block's activations take 200 kB a glyph, and past 8 a glyph costs the same."""
        return 32 if device_type == "cpu" else 2048


@final
class _Block(nn.Module):
    """A 3x3 convolution, batch normalisation (running statistics in evaluation mode), 2x2 pooling, ReLU."""

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, filters, 3, padding=1)
        self.norm = nn.BatchNorm2d(filters)

    def forward(self, images: Float[Tensor, "n channels height width"]) -> Float[Tensor, "n filters height2 width2"]:
        scores: Tensor = self.norm(self.conv(images))
        return nn.functional.relu(nn.functional.max_pool2d(scores, 2))
