"""Bytes to tensors on the CPU: images, texts, vectors, labelled examples and the zips they come in."""

from app.codecs._base import Codec, DecodedInput, Gathered, RawInput, decode_inputs
from app.codecs.archive import read_archive
from app.codecs.choose import codec_for
from app.codecs.pointer import pointer
from app.codecs.support import (
    DecodedExample,
    ParsedSupport,
    RawExample,
    check_counts,
    check_labels,
    check_whole,
    decode_examples,
    example_id,
    normalise_label,
    parse_support,
)
from app.codecs.tensors import read_vectors
from app.codecs.vector import vector_of_query

__all__ = [
    "Codec",
    "DecodedExample",
    "DecodedInput",
    "Gathered",
    "ParsedSupport",
    "RawExample",
    "RawInput",
    "check_counts",
    "check_labels",
    "check_whole",
    "codec_for",
    "decode_examples",
    "decode_inputs",
    "example_id",
    "normalise_label",
    "parse_support",
    "pointer",
    "read_archive",
    "read_vectors",
    "vector_of_query",
]
