"""Examples through a backbone: once for a whole pool, or for one episode; texts without needless padding."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from app.backbones._base import Backbone
from app.training.sampler import Pool


def device_of(backbone: Backbone, inputs: Tensor) -> torch.device:
    """Where a backbone computes; one without weights computes where its inputs lie."""
    return next((one.device for one in backbone.parameters()), inputs.device)


def placed(pool: Pool, device: torch.device) -> Pool:
    """The pool on the device; one that would fill more than half of a GPU's free memory stays where it is."""
    if device.type == "cuda":
        free_bytes, _ = torch.cuda.mem_get_info(device)
        if 2 * pool.inputs.nbytes > free_bytes:
            return pool
    return pool.to(device)


def widened(features: Float[Tensor, "n dim"]) -> Float[Tensor, "n dim"]:
    """Embeddings in float32 where mixed precision left them in half of it: heads are not fitted in that."""
    return features.float() if features.dtype in {torch.bfloat16, torch.float16} else features


def trimmed(backbone: Backbone, inputs: Shaped[Tensor, "n ..."]) -> Shaped[Tensor, "n ..."]:
    """The inputs without the padding that all of them share, where the backbone pads."""
    if not backbone.pads or not len(inputs):
        return inputs
    return inputs[:, : max(1, int(_lengths(inputs).max()))]


@torch.no_grad()
def embed_pool(backbone: Backbone, pool: Pool) -> Pool:
    """Embed every example once, in evaluation mode (running statistics); the backbone's mode is put back.

    Short texts share batches with short ones, so that little padding is computed.
    """
    was_training = backbone.training
    backbone.eval()
    device = device_of(backbone, pool.inputs)
    size = backbone.micro_batch_examples(device.type)
    if backbone.pads:
        order = _lengths(pool.inputs).argsort(stable=True)
        parts = [_embed(backbone, pool.inputs[rows], device) for rows in torch.split(order, size)]
        features = torch.cat(parts)[order.argsort().to(device)]
    else:
        features = torch.cat([_embed(backbone, part, device) for part in torch.split(pool.inputs, size)])
    backbone.train(was_training)
    return pool.with_inputs(features)


def _embed(backbone: Backbone, inputs: Shaped[Tensor, "n ..."], device: torch.device) -> Float[Tensor, "n dim"]:
    features: Tensor = backbone(trimmed(backbone, inputs).to(device))
    return features


def _lengths(inputs: Shaped[Tensor, "n tokens"]) -> Shaped[Tensor, " n"]:
    """The place after the last token that is no padding."""
    places = torch.arange(1, inputs.shape[1] + 1, device=inputs.device)
    lengths: Tensor = ((inputs != 0) * places).amax(1)
    return lengths
