"""The limits a request is held to. `GET /v1/limits` shows them; the settings change them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Every limit in force, units in the names."""

    body_size_bytes: int = 64 * 1024 * 1024
    labels: int = 10_000
    examples: int = 20_000
    weight_examples: int = 1_000
    """Examples of a task whose learner adapts the backbone's weights: each of its steps passes over all of them."""
    inputs: int = 1_000
    scores: int = 500_000
    """Label scores in one answer: inputs times the smaller of top_k and the number of labels."""
    label_characters: int = 200
    text_characters: int = 100_000
    image_size_bytes: int = 20 * 1024 * 1024
    image_pixels: int = 50_000_000
    vector_dim: int = 16_384
    archive_size_bytes: int = 256 * 1024 * 1024
    """Sum of the unpacked sizes of a zip's members."""
    archive_ratio: int = 200
    """Unpacked over packed bytes of any one member."""
