from pathlib import Path

import pytest

from app.backbones import build
from app.checkpoints.card import Card
from app.checkpoints.load import Checkpoint
from app.codecs import codec_for
from app.codecs.image import ImageCodec
from app.codecs.text import TextCodec
from app.codecs.vector import VectorCodec
from app.core.limits import Limits


def checkpoint(modality: str, preprocessing: dict[str, object], tokenizer_path: Path | None = None) -> Checkpoint:
    card = Card(
        name="fake",
        description="",
        architecture="identity",
        modality=modality,
        dim=None,
        preprocessing=preprocessing,
        weights=None,
        sha256=None,
        learners={"protonet": {}},
        licence="",
        provenance="",
    )
    return Checkpoint(card, build("identity", {}), "0" * 64, tokenizer_path)


def test_each_modality_has_its_codec(limits: Limits, tokenizer_path: Path) -> None:
    size = {"height": 8, "width": 8, "channels": 3, "resize": "stretch"}
    assert isinstance(codec_for(checkpoint("image", size), limits), ImageCodec)
    assert isinstance(codec_for(checkpoint("text", {"max_tokens": 8}, tokenizer_path), limits), TextCodec)
    vectors = codec_for(checkpoint("vector", {}), limits)
    assert isinstance(vectors, VectorCodec)
    assert vectors.expecting(7).dim == 7


@pytest.mark.parametrize(
    ("modality", "preprocessing"), [("text", {"max_tokens": 8}), ("vector", {"x": 1}), ("image", {})]
)
def test_a_card_that_no_codec_can_follow_is_refused(
    limits: Limits, modality: str, preprocessing: dict[str, object]
) -> None:
    with pytest.raises(ValueError, match=r"tokenizer|preprocessing"):
        codec_for(checkpoint(modality, preprocessing), limits)
