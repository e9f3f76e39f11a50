"""Random changes of images that leave what they mean: another hand, another pen, another camera.

Every random number comes from the passed CPU generator, so that a seed means the same changes on every device; pixels
are changed where they lie, all images at once.
"""

import math

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional

from app.training.data_section import Augmentation

_LUMA = (0.299, 0.587, 0.114)
"""What red, green and blue contribute to grey (ITU-R BT.601)."""


def augment(
    inputs: UInt8[Tensor, "way images channels height width"], how: Augmentation, generator: torch.Generator
) -> UInt8[Tensor, "way images channels height width"]:
    """Change each image by its own random moves; uint8, as in serving.

    Mirroring by `mirror_share` is drawn per class (the first axis), as it makes another character of most; all else
    per image. In order: moves of glyphs, crop and flip, colours, erasing. Cost: about 4 ms for 192 32x32 RGB images
    with crop, flip and colours, on one core.
    """
    shape = inputs.shape
    if how.mirror_share:
        mirrored = torch.rand(len(inputs), 1, 1, 1, 1, generator=generator) < how.mirror_share
        inputs = torch.where(mirrored.to(inputs.device), inputs.flip(-1), inputs)
    images = inputs.flatten(0, 1)
    if how.rotation_degrees or how.shear or how.scale or how.shift_pixels or how.thick_share:
        images = _moved(images, how, generator)
    if how.crop_padding or how.flip_share:
        images = _cropped(images, how, generator)
    if how.brightness or how.contrast or how.saturation:
        images = _coloured(images, how, generator)
    if how.erase_share:
        images = _erased(images, how, generator)
    return images.reshape(shape)


def _moved(
    images: UInt8[Tensor, "n channels height width"], how: Augmentation, generator: torch.Generator
) -> UInt8[Tensor, "n channels height width"]:
    """Rotate, shear, scale, shift and thicken; what comes in from outside is 0."""
    n, device = len(images), images.device
    maps = _maps(n, images.shape[-1], how, generator).to(device)
    grid = functional.affine_grid(maps, list(images.shape), align_corners=False)
    moved = functional.grid_sample(images.float(), grid, align_corners=False)
    chosen = torch.rand(n, 1, 1, 1, generator=generator) < how.thick_share
    weight = torch.rand(n, 1, 1, 1, generator=generator).to(device)
    if how.thick_share:
        thick = torch.lerp(moved, functional.max_pool2d(moved, 3, stride=1, padding=1), weight)
        moved = torch.where(chosen.to(device), thick, moved)
    return moved.round().to(torch.uint8)


def _maps(n: int, side: int, how: Augmentation, generator: torch.Generator) -> Float[Tensor, "n 2 3"]:
    """Affine maps from output to input coordinates, which run from -1 to 1 across the image."""
    rotation = math.radians(how.rotation_degrees) * _signed(generator, n)
    shear = how.shear * _signed(generator, n)
    across, down = 1 + how.scale * _signed(generator, n), 1 + how.scale * _signed(generator, n)
    shift = how.shift_pixels * 2 / side * _signed(generator, n, 2)
    first = torch.stack([across * rotation.cos(), shear - rotation.sin(), shift[:, 0]], 1)
    second = torch.stack([rotation.sin(), down * rotation.cos(), shift[:, 1]], 1)
    return torch.stack([first, second], 1)


def _cropped(
    images: UInt8[Tensor, "n channels height width"], how: Augmentation, generator: torch.Generator
) -> UInt8[Tensor, "n channels height width"]:
    """A crop of the image's size out of the padded image, perhaps mirrored: one gather of bytes, no arithmetic."""
    n, channels, height, width = images.shape
    padding = how.crop_padding
    down, across = torch.randint(2 * padding + 1, (2, n, 1), generator=generator)
    rows, columns = torch.arange(height) + down, torch.arange(width) + across
    flipped = torch.rand(n, 1, generator=generator) < how.flip_share
    columns = torch.where(flipped, columns.flip(1), columns)
    if how.crop_fill == "reflect":
        rows, columns = _reflected(rows - padding, height), _reflected(columns - padding, width)
    else:
        images = functional.pad(images, (padding, padding, padding, padding))
    places = (rows[:, :, None] * images.shape[-1] + columns[:, None, :]).flatten(1).to(images.device)
    cropped = images.flatten(2).gather(2, places[:, None].expand(n, channels, height * width))
    return cropped.reshape(n, channels, height, width)


def _reflected(places: Int64[Tensor, "n side"], length: int) -> Int64[Tensor, "n side"]:
    """Places outside of 0 to `length` - 1 mirrored at the edge pixels, back and forth."""
    period = max(1, 2 * (length - 1))
    return (length - 1) - ((places % period) - (length - 1)).abs()


def _coloured(
    images: UInt8[Tensor, "n channels height width"], how: Augmentation, generator: torch.Generator
) -> UInt8[Tensor, "n channels height width"]:
    """Brightness, then contrast (away from the image's mean grey), then saturation (away from each pixel's grey).

    The three are linear, so they are one: pixels are rounded and cut to 0..255 once, at the end.
    """
    n, channels = images.shape[:2]
    strengths = torch.tensor([how.brightness, how.contrast, how.saturation])[:, None, None, None, None]
    factors = 1 + strengths * _signed(generator, 3, n, 1, 1, 1)
    brightness, contrast, saturation = factors.to(images.device)
    pixels = images.float()
    shares = _LUMA if channels == 3 else [1 / channels] * channels
    grey = pixels[:, :1] * shares[0]
    for channel, share in enumerate(shares[1:], start=1):
        grey.add_(pixels[:, channel : channel + 1], alpha=share)
    mean = grey.mean((2, 3), keepdim=True)
    gain = brightness * contrast
    common = grey.mul_(gain * (1 - saturation)).add_(mean * (brightness * (1 - contrast)))
    return pixels.mul_(gain * saturation).add_(common).round_().clamp_(0, 255).to(torch.uint8)


def _erased(
    images: UInt8[Tensor, "n channels height width"], how: Augmentation, generator: torch.Generator
) -> UInt8[Tensor, "n channels height width"]:
    """Fill a square, which may stick out of the image, with the image's mean colour (DeVries, Taylor, 1708.04552)."""
    n, _, height, width = images.shape
    chosen = torch.rand(n, 1, generator=generator) < how.erase_share
    corner = torch.rand(2, n, 1, generator=generator) * torch.tensor([height, width])[:, None, None]
    top, left = corner.long() - how.erase_pixels // 2
    rows, columns = torch.arange(height) - top, torch.arange(width) - left
    in_rows, in_columns = ((places >= 0) & (places < how.erase_pixels) for places in (rows, columns))
    square = (in_rows & chosen)[:, None, :, None] & in_columns[:, None, None, :]
    mean = images.float().mean((2, 3), keepdim=True).round().to(torch.uint8)
    return torch.where(square.to(images.device), mean, images)


def _signed(generator: torch.Generator, *shape: int) -> Float[Tensor, "..."]:
    return torch.rand(*shape, generator=generator) * 2 - 1
