"""The codec that belongs to a checkpoint."""

from app.checkpoints.load import Checkpoint
from app.codecs._base import Codec
from app.codecs.image import ImageCodec
from app.codecs.text import TextCodec
from app.codecs.vector import VectorCodec
from app.core.limits import Limits


def codec_for(checkpoint: Checkpoint, limits: Limits) -> Codec:
    """The codec that delivers what the checkpoint's backbone reads, by its card.

    For a task whose vectors have a size of their own, go on with `.expecting(dim)`.
    Raises: `ValueError` for a preprocessing or a tokenizer that cannot be: call it at start-up.
    """
    card = checkpoint.card
    if card.modality == "image":
        return ImageCodec(card.preprocessing, limits)
    if card.modality == "vector":
        if card.preprocessing:
            raise ValueError("Vectors have no preprocessing.")
        return VectorCodec(limits, card.dim)
    if checkpoint.tokenizer_path is None:
        raise ValueError(f"The checkpoint {card.name!r} reads texts and has no tokenizer.")
    return TextCodec(checkpoint.tokenizer_path, card.preprocessing, limits)
