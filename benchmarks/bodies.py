"""What the benchmarks of the engine send: JPEGs like photographs, sentences, vectors, glyphs; no two alike.

Where IMPRINT_DATA has them, photographs are cut from those of clothing and sentences are those of CLINC150; elsewhere
both are made up: smooth noise of several scales, and words of the demo's tickets.
"""

import io
import json
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from benchmarks import data

SIDE: Final = 256
QUALITY: Final = 90
CANVAS: Final = 512
BOUNDARY: Final = "imprint-benchmark"
MULTIPART: Final = f"multipart/form-data; boundary={BOUNDARY}"
JPEG: Final = "image/jpeg"
JSON: Final = "application/json"


def photographs(count: int, seed: int) -> list[bytes]:
    """JPEG files of 256 x 256 pixels, each another cut of some picture."""
    draw = np.random.default_rng(seed)
    canvases = _real_canvases() or [_noise(draw) for _ in range(4)]
    found = []
    for _ in range(count):
        canvas = canvases[int(draw.integers(len(canvases)))]
        # At most a few cuts of one picture are alike: the size of the cut is drawn, too.
        side = int(draw.integers(SIDE * 3 // 4, min(canvas.size) + 1))
        left, top = (int(draw.integers(edge - side + 1)) for edge in canvas.size)
        cut = canvas.resize((SIDE, SIDE), Image.Resampling.BILINEAR, (left, top, left + side, top + side))
        if draw.integers(2):
            cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        stream = io.BytesIO()
        # A quality of its own makes bytes of their own, should two cuts be the same.
        cut.save(stream, "JPEG", quality=QUALITY + int(draw.integers(4)))
        found.append(stream.getvalue())
    return found


def _real_canvases() -> list[Image.Image]:
    folder = os.environ.get("IMPRINT_DATA")
    if not folder or not (Path(folder) / "clothing").is_dir():
        return []
    files = (Image.open(io.BytesIO(file)).convert("RGB") for file, _ in data.clothing("train")[:200])
    return [image for image in files if min(image.size) >= SIDE]


def _noise(draw: np.random.Generator) -> Image.Image:
    """Smooth noise whose strength falls with its frequency, as that of photographs does."""
    total = np.zeros((CANVAS, CANVAS, 3))
    for cells in (2, 4, 8, 16, 32, 64, 128, 256):
        grain = draw.normal(0, 1 / cells**0.8, (cells, cells, 3))
        layers = [
            np.asarray(
                Image.fromarray(grain[..., channel].astype(np.float32)).resize(
                    (CANVAS, CANVAS), Image.Resampling.BICUBIC
                )
            )
            for channel in range(3)
        ]
        total += np.stack(layers, 2)
    scaled = (total - total.mean()) / total.std() * 50 + 128
    return Image.fromarray(scaled.clip(0, 255).astype(np.uint8))


def sentences(count: int, seed: int) -> list[str]:
    """Short texts; those of other seeds are others, as long as there are so many of CLINC150 (18,000)."""
    folder = os.environ.get("IMPRINT_DATA")
    if folder and (Path(folder) / "text" / "clinc150").is_dir():
        real = sorted({text for part in ("train", "test") for text, _ in data.sentences("clinc150", part)})
        order = np.random.default_rng(0).permutation(len(real))
        return [real[index] for index in order.take(range(seed * count, (seed + 1) * count), mode="wrap")]
    draw = np.random.default_rng(seed)
    tickets = json.loads(resources.files("app.demo").joinpath("tickets.json").read_text(encoding="utf-8"))
    words = sorted({word for texts in tickets.values() for text in texts for word in text.split()})
    return [" ".join(draw.choice(words, int(draw.integers(5, 16)))) for _ in range(count)]


def vectors(count: int, dim: int, seed: int) -> list[list[float]]:
    """Normal numbers of five digits."""
    found: list[list[float]] = np.random.default_rng(seed).normal(size=(count, dim)).round(5).tolist()
    return found


def glyphs(count: int, seed: int) -> list[bytes]:
    """PNG files of 28 x 28 grey pixels: a few strokes each."""
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        ink = np.full((28, 28), 255, np.uint8)
        for _ in range(4):
            start, end = draw.integers(3, 25, (2, 2))
            steps = np.linspace(start, end, 40).astype(int)
            ink[steps[:, 0], steps[:, 1]] = 0
        stream = io.BytesIO()
        Image.fromarray(ink).save(stream, "PNG")
        found.append(stream.getvalue())
    return found


def multipart(support: Mapping[str, Sequence[bytes]], media_type: str) -> bytes:
    """A support set as a form: one part an example, its label as the field's name."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{label}"; filename="{number}"\r\n'
        f"Content-Type: {media_type}\r\n\r\n".encode()
        + file
        + b"\r\n"
        for label, files in support.items()
        for number, file in enumerate(files)
    ]
    return b"".join([*parts, f"--{BOUNDARY}--\r\n".encode()])


def predict_json(one: object) -> bytes:
    """The body of a prediction of one text or vector."""
    return json.dumps({"inputs": [one]}).encode()


def shared_out(items: Sequence[bytes], way: int) -> dict[str, Sequence[bytes]]:
    """Labels with equal parts of the items."""
    shot = len(items) // way
    return {f"label {number}": items[number * shot : (number + 1) * shot] for number in range(way)}
