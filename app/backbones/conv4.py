"""Conv4: small images to a few hundred numbers, the small network of the few-shot papers."""

from dataclasses import dataclass
from typing import ClassVar, Final, final

from jaxtyping import Float, UInt8
from torch import Tensor, nn

from app.backbones._base import Backbone, Modality
from app.backbones._convolution import channels_last, convolved
from app.core.errors import InvalidSetting

BLOCKS: Final = 4
GROUPS: Final = 8
WHITE: Final = 255


@dataclass(frozen=True)
class Settings:
    """The shape of the network: filters of each block, and the side of its square input in pixels.

    `widths` gives each of the four blocks a number of filters of its own, in place of `filters`. `norm` is "batch"
    (running statistics in evaluation mode) or "group", which has no statistics beyond the one image: for meta-learners
    that adapt the weights from scratch. Raises: `InvalidSetting`.
    """

    filters: int = 64
    image_size: int = 28
    channels: int = 1
    norm: str = "batch"
    widths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _check(self.norm in ("batch", "group"), "norm", "'batch' or 'group'")
        _check(self.channels in (1, 3), "channels", "1 or 3")
        _check(len(self.widths) in (0, BLOCKS), "widths", f"{BLOCKS} numbers, or none")
        widths = self.widths or (self.filters,)
        _check(min(widths) >= 1, "widths", "1 or more in each block")
        _check(self.norm == "batch" or not any(width % GROUPS for width in widths), "widths", f"multiples of {GROUPS}")
        _check(self.image_size >= 2**BLOCKS, "image_size", f"{2**BLOCKS} or more")


@final
class Conv4(Backbone):
    """Four blocks of convolution, normalisation, max-pooling and ReLU.

    Input: uint8 (n, channels, height, width), grey with ink 255 on 0, or RGB; scaled to 0..1 here.
    Output: float (n, dim), each 0 or more; dim is the last block's filters * (image_size // 16) ** 2, 64 by default.
    Paper: Vinyals et al., NeurIPS 2016, arXiv:1606.04080, section 4.1.1; Snell, Swersky, Zemel,
    NeurIPS 2017, arXiv:1703.05175, section 3.1.
    Departs from it: nothing that changes a number (ReLU follows the pooling, which commutes with it
    and leaves it a quarter of the work).
    """

    modality: ClassVar[Modality] = "image"
    stacks: ClassVar[bool] = True

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.input_shape = (settings.channels, settings.image_size, settings.image_size)
        widths = settings.widths or (settings.filters,) * BLOCKS
        self.dim: int = widths[-1] * (settings.image_size // 2**BLOCKS) ** 2
        channels = (settings.channels, *widths)
        self.blocks = nn.Sequential(*(_Block(channels[i], channels[i + 1], settings.norm) for i in range(BLOCKS)))

    def forward(self, inputs: UInt8[Tensor, "n channels height width"]) -> Float[Tensor, "n dim"]:
        """Embed images. In evaluation mode each row depends on its own image alone."""
        weight: Tensor = next(self.blocks.parameters())
        places: Tensor = self.blocks(channels_last(inputs, weight.dtype) / WHITE)
        return places.flatten(1)

    def micro_batch_examples(self, device_type: str) -> int:
        """Few on a CPU: the first block's activations take 200 kB a glyph, and past 8 a glyph costs the same."""
        return 32 if device_type == "cpu" else 2048


@final
class _Block(nn.Module):
    """A 3x3 convolution, normalisation, 2x2 pooling, ReLU."""

    def __init__(self, channels: int, filters: int, norm: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, filters, 3, padding=1)
        self.norm = nn.BatchNorm2d(filters) if norm == "batch" else nn.GroupNorm(GROUPS, filters)

    def forward(self, images: Float[Tensor, "n channels height width"]) -> Float[Tensor, "n filters height2 width2"]:
        scores = convolved(images, self.conv, self.norm)
        return nn.functional.relu(nn.functional.max_pool2d(scores, 2))


def _check(fine: bool, name: str, wanted: str) -> None:
    if not fine:
        raise InvalidSetting(
            f"The setting {name!r} of conv4 must be {wanted}.", pointer=f"/architecture_settings/{name}"
        )
