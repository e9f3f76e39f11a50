"""Vectors in a safetensors body."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from safetensors import SafetensorError, deserialize
from torch import Tensor

from app.codecs._base import RawInput
from app.codecs._errors import BadTensor, NotSafetensors, TooManyInputs, VectorTooLong
from app.codecs.pointer import pointer
from app.core.limits import Limits

TENSOR_NAME: Final = "inputs"
_DTYPES: Final[Mapping[str, torch.dtype]] = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


def read_vectors(data: bytes, limits: Limits) -> list[RawInput]:
    """The vectors of a safetensors file with one tensor "inputs" (n, dim) of F16, BF16, F32 or F64.

    Pointers are `/inputs/<row>`. Values are checked by the codec. Raises: `NotSafetensors` (400) also for a header
    that lies about sizes, `BadTensor` (422), `TooManyInputs`, `VectorTooLong` (413).
    """
    try:
        tensors: dict[str, dict[str, Any]] = dict(deserialize(data))  # type: ignore[no-untyped-call]  # the library has no types
    except SafetensorError:
        raise NotSafetensors("The body is not a valid safetensors file.") from None
    if set(tensors) != {TENSOR_NAME}:
        raise BadTensor(f'The file must hold one tensor, named "{TENSOR_NAME}".', pointer=pointer(TENSOR_NAME))
    dtype, shape = tensors[TENSOR_NAME]["dtype"], list(tensors[TENSOR_NAME]["shape"])
    _check(str(dtype), shape, limits)
    values = torch.frombuffer(bytearray(tensors[TENSOR_NAME]["data"]), dtype=_DTYPES[dtype]).reshape(shape)
    return [RawInput("vector", row, pointer(TENSOR_NAME, at)) for at, row in enumerate(_floats(values))]


def _check(dtype: str, shape: list[int], limits: Limits) -> None:
    where = pointer(TENSOR_NAME)
    if dtype not in _DTYPES:
        raise BadTensor(f"The tensor is {dtype}; send one of {', '.join(_DTYPES)}.", pointer=where)
    if len(shape) != 2 or 0 in shape:
        raise BadTensor(f"The tensor has the shape {shape}; send (n, dim), both at least 1.", pointer=where)
    if shape[0] > limits.inputs:
        raise TooManyInputs(f"{shape[0]} vectors are given; the limit is {limits.inputs}.", pointer=where)
    if shape[1] > limits.vector_dim:
        raise VectorTooLong(f"The vectors have {shape[1]} numbers; the limit is {limits.vector_dim}.", pointer=where)


def _floats(values: Tensor) -> "np.ndarray[Any, np.dtype[np.floating[Any]]]":
    """As numpy, which has no bfloat16: float64 is kept, so that the codec sees what float32 cannot hold."""
    return (values if values.dtype == torch.float64 else values.float()).numpy()
