"""How convolutional backbones lay out images in memory, convolve and normalise, for one task or several at once."""

from typing import Any, Final

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

_STACKED: Final = 5
"""Axes of a convolution's weights where those of several tasks lie side by side."""


def channels_last(
    images: UInt8[Tensor, "n channels height width"], kind: torch.dtype
) -> Float[Tensor, "n channels height width"]:
    """The pixels as numbers of a type, the channels of a pixel side by side in memory.

    On a CPU every layer after it follows this layout, and an embedding takes a third of the time. (Not by
    `torch.channels_last`, which `torch.func.vmap` does not know.)
    """
    return images.movedim(1, 3).clone(memory_format=torch.contiguous_format).to(kind).movedim(3, 1)


def convolved(
    images: Float[Tensor, "n channels height width"], convolution: nn.Conv2d, norm: nn.Module
) -> Float[Tensor, "n filters height2 width2"]:
    """The normalised convolution, of stride 1.

    Batch normalisation in evaluation mode is one factor and one shift a filter, and these go into the convolution's
    own weights: on a CPU that spares a forward of 32 half of its time, and inner loops a fifth.

    Weights with one more axis in front are those of several tasks (`Backbone.stacks`): then the channels of `images`
    are those of the first task, of the second and so on, and so are the filters of the outcome.
    """
    weight, bias, padding = convolution.weight, convolution.bias, int(convolution.padding[0])
    if isinstance(norm, nn.BatchNorm2d) and not norm.training:
        assert norm.running_mean is not None and norm.running_var is not None  # noqa: PT018, S101 (it has both)
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        shift = norm.bias + ((0 if bias is None else bias) - norm.running_mean) * scale
        return _convolved(images, weight * scale[..., None, None, None], shift, padding)
    if isinstance(norm, nn.GroupNorm):
        scores = _convolved(images, weight, bias, padding)
        groups = norm.num_groups * (len(weight) if weight.ndim == _STACKED else 1)
        return nn.functional.group_norm(scores, groups, norm.weight.flatten(), norm.bias.flatten(), norm.eps)
    normalised: Tensor = norm(convolution(images))
    return normalised


def _convolved(images: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    if weight.ndim < _STACKED:
        return nn.functional.conv2d(images, weight, bias, padding=padding)
    flat = None if bias is None else bias.flatten()
    return _call(_Convolution, images, weight.flatten(0, 1), flat, padding, len(weight))


# Torch's own second derivative of a grouped convolution goes through its groups one by one. The three below are closed
# under differentiation, and each is one call for all groups.


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, padding: int, groups: int) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.shape = padding, groups
        return nn.functional.conv2d(images, weight, bias, padding=padding, groups=groups)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        images, weight = ctx.saved_tensors
        of_images, of_weight, of_bias, *_ = ctx.needs_input_grad
        if torch.is_grad_enabled():
            found = (
                _call(_ImageSlope, slope, weight, images.shape, *ctx.shape) if of_images else None,
                _call(_WeightSlope, images, slope, weight.shape, *ctx.shape) if of_weight else None,
            )
        else:
            found = _slopes(slope, images, weight, ctx.shape, (of_images, of_weight))
        return *found, slope.sum((0, 2, 3)) if of_bias else None, None, None


class _ImageSlope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, slope: Tensor, weight: Tensor, like: torch.Size, padding: int, groups: int) -> Tensor:
        ctx.save_for_backward(slope, weight)
        ctx.shape = padding, groups
        found = _slopes(slope, slope.new_empty(()).expand(like), weight, ctx.shape, (True, False))[0]
        assert found is not None  # noqa: S101 (it was asked for)
        return found

    @staticmethod
    def backward(ctx: Any, along: Tensor) -> tuple[Tensor | None, ...]:
        slope, weight = ctx.saved_tensors
        return (
            _call(_Convolution, along, weight, None, *ctx.shape) if ctx.needs_input_grad[0] else None,
            _call(_WeightSlope, along, slope, weight.shape, *ctx.shape) if ctx.needs_input_grad[1] else None,
            *(None, None, None),
        )


class _WeightSlope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, slope: Tensor, like: torch.Size, padding: int, groups: int) -> Tensor:
        ctx.save_for_backward(images, slope)
        ctx.shape = padding, groups
        found = _slopes(slope, images, slope.new_empty(()).expand(like), ctx.shape, (False, True))[1]
        assert found is not None  # noqa: S101 (it was asked for)
        return found

    @staticmethod
    def backward(ctx: Any, along: Tensor) -> tuple[Tensor | None, ...]:
        images, slope = ctx.saved_tensors
        return (
            _call(_ImageSlope, slope, along, images.shape, *ctx.shape) if ctx.needs_input_grad[0] else None,
            _call(_Convolution, images, along, None, *ctx.shape) if ctx.needs_input_grad[1] else None,
            *(None, None, None),
        )


def _slopes(
    slope: Tensor, images: Tensor, weight: Tensor, shape: tuple[int, int], wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    padding, groups = shape
    of_images, of_weight, _ = torch.ops.aten.convolution_backward(
        slope, images, weight, None, [1, 1], [padding] * 2, [1, 1], False, [0, 0], groups, [*wanted, False]
    )
    return of_images, of_weight


def _call(function: type[torch.autograd.Function], *values: object) -> Tensor:
    found: Tensor = function.apply(*values)  # type: ignore[no-untyped-call]
    return found
