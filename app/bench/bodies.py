"""What is sent: support sets and endless predictions, made up; no two are alike, so no answer comes from memory."""

import base64
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

import numpy as np
from PIL import Image

WAY: Final = 5
SHOT: Final = 5
VECTOR_DIM: Final = 64
SIDE: Final = 256
WORDS: Final = (
    "order",
    "refund",
    "parcel",
    "late",
    "broken",
    "invoice",
    "password",
    "login",
    "crash",
    "update",
    "price",
)


@dataclass(frozen=True)
class Traffic:
    """What a backbone is asked: the support set of one task, and bodies of predictions without end."""

    support: Mapping[str, Sequence[object]]
    content_type: str
    bodies: Iterator[bytes]
    query: str = ""


def traffic(card: Mapping[str, Any], seed: int = 0, *, record: bool = False) -> Traffic:
    """For a backbone as `GET /v1/backbones` describes it; with `record` the predictions are to be recorded."""
    draw = np.random.default_rng(seed)
    modality, shape = card["modality"], card["input_shape"]
    if modality == "image":
        pictures = [picture(draw, shape) for _ in range(WAY * SHOT)]
        examples: list[object] = [{"image_b64": base64.b64encode(one).decode()} for one in pictures]
        content_type = "image/png" if shape[0] == 1 else "image/jpeg"
        return Traffic(_labelled(examples), content_type, _numbered(pictures), "?record=true" if record else "")
    if modality == "text":
        examples = [{"text": sentence(draw)} for _ in range(WAY * SHOT)]
        return Traffic(_labelled(examples), "application/json", _asking(_texts(draw), record))
    dim = shape[0] or VECTOR_DIM
    examples = [{"vector": one} for one in vectors(draw, WAY * SHOT, dim)]
    return Traffic(_labelled(examples), "application/json", _asking(_vectors(draw, dim), record))


def picture(draw: np.random.Generator, shape: Sequence[int | None]) -> bytes:
    """A file of smooth noise: a JPEG as a camera gives it, or for grey backbones a PNG of their own size."""
    grey = shape[0] == 1
    cells = draw.integers(0, 256, (8, 8) if grey else (8, 8, 3), dtype=np.uint8)
    side = (shape[1] or SIDE) if grey else SIDE
    image = Image.fromarray(cells).resize((side, side), Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    if grey:
        image.save(stream, "PNG")
    else:
        grain = draw.integers(-12, 13, (side, side, 3))
        Image.fromarray((np.asarray(image) + grain).clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def sentence(draw: np.random.Generator) -> str:
    """Five to fifteen words."""
    return " ".join(draw.choice(WORDS, int(draw.integers(5, 16))))


def vectors(draw: np.random.Generator, number: int, dim: int) -> list[list[float]]:
    """Normal numbers of five digits."""
    found: list[list[float]] = draw.normal(size=(number, dim)).round(5).tolist()
    return found


def _labelled(examples: Sequence[object]) -> dict[str, Sequence[object]]:
    return {f"label {label}": examples[label::WAY] for label in range(WAY)}


def _numbered(pictures: Sequence[bytes]) -> Iterator[bytes]:
    """Each time other bytes: behind a picture's end comes a number, which decoders pass over."""
    for number in count():
        yield pictures[number % len(pictures)] + b"%d" % number


def _asking(inputs: Iterator[object], record: bool) -> Iterator[bytes]:
    for one in inputs:
        yield json.dumps({"inputs": [one], "record": record}).encode()


def _texts(draw: np.random.Generator) -> Iterator[object]:
    sentences = [sentence(draw) for _ in range(256)]
    for number in count():
        yield {"text": f"{sentences[number % len(sentences)]} {number}"}


def _vectors(draw: np.random.Generator, dim: int) -> Iterator[object]:
    rows = vectors(draw, 256, dim)
    for number in count():
        yield {"vector": [number / 1000, *rows[number % len(rows)][1:]]}
