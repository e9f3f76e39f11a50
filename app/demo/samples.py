"""The demo's examples: handwritten digits that scikit-learn brings, and support tickets of ours."""

import base64
import io
import json
from dataclasses import dataclass
from importlib import resources
from typing import TypeAlias

import numpy as np
from PIL import Image

Json: TypeAlias = dict[str, object]
SHOT = 5
SIDE = 28


@dataclass(frozen=True)
class Sample:
    """A classifier to make, and the held-out examples that judge it."""

    title: str
    backbone: str
    support: dict[str, list[Json]]
    queries: list[Json]
    answers: list[str]
    shown: list[str]


def digits(queries: int = 200, seed: int = 0) -> Sample:
    """Ten digits, five examples each, drawn by real hands; 8x8 pixels, sent as PNG."""
    from sklearn.datasets import load_digits  # noqa: PLC0415 - an extra; only the demo needs it

    loaded = load_digits()
    order = np.random.default_rng(seed).permutation(len(loaded.target))
    support: dict[str, list[Json]] = {str(digit): [] for digit in range(10)}
    held_out: list[tuple[Json, str]] = []
    for index in order:
        label = str(loaded.target[index])
        example: Json = {"image_b64": _png(loaded.images[index])}
        if len(support[label]) < SHOT:
            support[label].append(example)
        elif len(held_out) < queries:
            held_out.append((example, label))
    shown = [f"a handwritten {label}" for _, label in held_out]
    return Sample(
        "handwritten digits (10 labels, 5 images each)",
        "glyph-conv4-protonet",
        support,
        [example for example, _ in held_out],
        [label for _, label in held_out],
        shown,
    )


def tickets() -> Sample:
    """Six kinds of support ticket, five sentences each; five others of each kind are asked."""
    text = resources.files("app.demo").joinpath("tickets.json").read_text(encoding="utf-8")
    sentences: dict[str, list[str]] = json.loads(text)
    support: dict[str, list[Json]] = {
        label: [{"text": one} for one in given[:SHOT]] for label, given in sentences.items()
    }
    held_out = [(one, label) for label, given in sentences.items() for one in given[SHOT:]]
    return Sample(
        f"support tickets ({len(sentences)} labels, 5 sentences each)",
        "text-minilm",
        support,
        [{"text": one} for one, _ in held_out],
        [label for _, label in held_out],
        [one for one, _ in held_out],
    )


def _png(pixels: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]") -> str:
    image = Image.fromarray((pixels / 16 * 255).astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
