"""Images, zips and codecs that several codec tests use."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from PIL import Image

from app.codecs._base import RawInput
from app.codecs.image import ImageCodec
from app.codecs.support import RawExample
from app.codecs.text import TextCodec
from app.codecs.vector import VectorCodec
from app.core.limits import Limits

Encode = Callable[..., bytes]

# A first call loads libraries, and machines that test are busy: how long a case takes says nothing.
settings.register_profile("codecs", deadline=None)
settings.load_profile("codecs")


@pytest.fixture(scope="session")
def limits() -> Limits:
    return Limits()


@pytest.fixture(scope="session")
def encode() -> Encode:
    """`encode(image, "PNG", **options)`: the bytes of an image file."""

    def save(image: Image.Image, file_format: str, **options: object) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, file_format, **options)
        return buffer.getvalue()

    return save


@pytest.fixture(scope="session")
def zipped() -> Encode:
    """`zipped({"cat/1.png": b"..."})`: the bytes of a zip; a name that ends in `/` is a folder."""

    def pack(files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", compression) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return buffer.getvalue()

    return pack


@pytest.fixture(scope="session")
def photo_codec(limits: Limits) -> ImageCodec:
    """Stretches to 8 x 8 RGB: pixels of flat images survive exactly."""
    return ImageCodec({"height": 8, "width": 8, "channels": 3, "resize": "stretch", "interpolation": "box"}, limits)


@pytest.fixture(scope="session")
def glyph_codec(limits: Limits) -> ImageCodec:
    return ImageCodec(
        {
            "height": 28,
            "width": 28,
            "channels": 1,
            "resize": "stretch",
            "crop": None,
            "interpolation": "box",
            "polarity": "ink-bright",
        },
        limits,
    )


@pytest.fixture(scope="session")
def tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small word-piece tokenizer whose file asks for padding and truncation, as MiniLM's does."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "sat", "pad", "[", "]", "##s"]
    special = [
        {"id": at, "content": word, "special": True, "single_word": False, "lstrip": False, "rstrip": False}
        | {"normalized": False}
        for at, word in enumerate(words[:4])
    ]
    pieces = [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    pieces.append({"SpecialToken": {"id": "[SEP]", "type_id": 0}})
    ids = {word: {"id": word, "ids": [words.index(word)], "tokens": [word]} for word in ("[CLS]", "[SEP]")}
    settings = {
        "version": "1.0",
        "truncation": {"max_length": 6, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": {
            "strategy": {"Fixed": 12},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "[PAD]",
        },
        "added_tokens": special,
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing", "single": pieces, "pair": pieces, "special_tokens": ids},
        "decoder": None,
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {word: at for at, word in enumerate(words)},
        },
    }
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(json.dumps(settings), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def text_codec(tokenizer_path: Path, limits: Limits) -> TextCodec:
    return TextCodec(tokenizer_path, {"max_tokens": 10}, limits)


@pytest.fixture(scope="session")
def vector_codec(limits: Limits) -> VectorCodec:
    return VectorCodec(limits)


@pytest.fixture(scope="session")
def vector_examples() -> Callable[..., list[RawExample]]:
    """`vector_examples(("cat", [1.0]), ...)`: as a JSON list of examples would come."""

    def make(*pairs: tuple[str, list[float]]) -> list[RawExample]:
        return [
            RawExample(label, RawInput("vector", vector, f"/support/{at}/vector"), f"/support/{at}/label")
            for at, (label, vector) in enumerate(pairs)
        ]

    return make
