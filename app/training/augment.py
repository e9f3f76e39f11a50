"""Random changes of glyphs that leave what they mean: another hand, another pen."""

import math

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from app.training.recipe import Augmentation


def augment(
    glyphs: UInt8[Tensor, "way images 1 height width"], how: Augmentation, generator: torch.Generator
) -> UInt8[Tensor, "way images 1 height width"]:
    """Change each glyph by its own random rotation, shear, scale, shift and stroke; uint8, as in serving.

    Mirroring alone is drawn per class, as it makes another character of most.
    """
    way = len(glyphs)
    if how.mirror_share:
        mirrored = torch.rand(way, 1, 1, 1, 1, generator=generator) < how.mirror_share
        glyphs = torch.where(mirrored, glyphs.flip(-1), glyphs)
    if how == Augmentation(mirror_share=how.mirror_share):
        return glyphs
    flat = glyphs.flatten(0, 1).float()
    maps = _maps(len(flat), glyphs.shape[-1], how, generator)
    grid = functional.affine_grid(maps, list(flat.shape), align_corners=False)
    moved = functional.grid_sample(flat, grid, align_corners=False)
    chosen = torch.rand(len(flat), 1, 1, 1, generator=generator) < how.thick_share
    weight = torch.rand(len(flat), 1, 1, 1, generator=generator)
    thick = torch.lerp(moved, functional.max_pool2d(moved, 3, stride=1, padding=1), weight)
    return torch.where(chosen, thick, moved).round().to(torch.uint8).reshape(glyphs.shape)


def _maps(n: int, side: int, how: Augmentation, generator: torch.Generator) -> Float[Tensor, "n 2 3"]:
    """Affine maps from output to input coordinates, which run from -1 to 1 across the image."""
    rotation = math.radians(how.rotation_degrees) * _signed(generator, n)
    shear = how.shear * _signed(generator, n)
    across, down = 1 + how.scale * _signed(generator, n), 1 + how.scale * _signed(generator, n)
    shift = how.shift_pixels * 2 / side * _signed(generator, n, 2)
    first = torch.stack([across * rotation.cos(), shear - rotation.sin(), shift[:, 0]], 1)
    second = torch.stack([rotation.sin(), down * rotation.cos(), shift[:, 1]], 1)
    return torch.stack([first, second], 1)


def _signed(generator: torch.Generator, *shape: int) -> Float[Tensor, "..."]:
    return torch.rand(*shape, generator=generator) * 2 - 1
