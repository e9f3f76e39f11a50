"""Vectors: lists of numbers and safetensors to float32."""

import json
import math
import sys
from array import array
from collections.abc import Sequence
from typing import ClassVar, Final, cast, final

import numpy as np
import torch
from numpy.typing import NDArray

from app.backbones._base import Modality
from app.codecs._base import Codec, DecodedInput, RawInput
from app.codecs._errors import NotFinite, NotNumbers, VectorSize, VectorTooLong
from app.core.limits import Limits

FLOAT32_MEDIA_TYPE: Final = "application/vnd.imprint.float32"
"""Little-endian float32, nothing else: how vectors are stored."""

QUICK_NUMBERS: Final = 4_096
"""So many are checked and copied sooner than a thread has begun."""

_BYTES_A_NUMBER: Final = 64
"""More than any sensible JSON spelling of a number takes."""


@final
class VectorCodec(Codec):
    """Reads embeddings that the caller made.

    Tensor: float32 (dim,). With `dim`, other sizes are refused; without, the vectors of one
    call must have the same size. Values must be finite, in float32 too. Cost: a few us a vector of 384.
    """

    modality: ClassVar[Modality] = "vector"

    def __init__(self, limits: Limits, dim: int | None = None) -> None:
        super().__init__(limits)
        self.dim = dim

    def is_quick(self, raws: Sequence[RawInput]) -> bool:
        """So it is for few numbers that were parsed already."""
        numbers = 0
        for raw in raws:
            if raw.kind != "vector":
                return False
            numbers += len(raw.content)
        return numbers <= QUICK_NUMBERS

    def expecting(self, dim: int | None) -> "VectorCodec":
        """The same codec, held to vectors of `dim` numbers (a task's)."""
        return VectorCodec(self.limits, self.dim if dim is None else dim)

    def decode(self, raw: RawInput) -> DecodedInput:
        """Decode a list of numbers, a JSON list as bytes, or stored float32 bytes.

        Raises: `NotNumbers`, `NotFinite` (pointer to the element), `VectorSize` (422); `VectorTooLong` (413).
        """
        content = _parsed(raw, self.limits) if raw.kind == "bytes" else raw.content
        if raw.kind not in {"vector", "bytes"}:
            self.refuse_kind(raw)
        if not isinstance(content, list | tuple | np.ndarray) or (
            isinstance(content, np.ndarray) and content.ndim != 1
        ):
            raise NotNumbers("A vector is a list of numbers.", pointer=raw.pointer)
        self._check_size(len(content), raw.pointer)
        values = _float32(content, raw.pointer)  # what overflows is found as infinite below
        if not np.isfinite(values).all():
            _refuse_not_finite(content, values, raw.pointer)
        return DecodedInput(torch.from_numpy(values), values.tobytes(), FLOAT32_MEDIA_TYPE)

    def check_together(self, raws: Sequence[RawInput], inputs: Sequence[DecodedInput]) -> None:
        """Refuse vectors of mixed sizes: the pointer is at the first that differs. Raises: `VectorSize`."""
        first = inputs[0].tensor.shape[0] if inputs else 0
        for raw, item in zip(raws[1:], inputs[1:], strict=True):
            size = item.tensor.shape[0]
            if size != first:
                raise VectorSize(
                    f"This vector has {size} numbers, the first one has {first}: all must have the same size.",
                    pointer=raw.pointer,
                )

    def _check_size(self, size: int, pointer: str) -> None:
        if size == 0:
            raise VectorSize("The vector is empty.", pointer=pointer)
        if size > self.limits.vector_dim:
            raise VectorTooLong(
                f"The vector has {size} numbers; the limit is {self.limits.vector_dim}.", pointer=pointer
            )
        if self.dim is not None and size != self.dim:
            raise VectorSize(f"The vector has {size} numbers; {self.dim} are expected.", pointer=pointer)


def vector_of_query(text: str, pointer: str) -> RawInput:
    """The vector of a URL's query, `0.1,0.2,-3e-2`. Raises: `NotNumbers`, pointer to the element."""
    numbers: list[float] = []
    for at, part in enumerate(text.split(",")):
        try:
            numbers.append(float(part))
        except ValueError:
            raise NotNumbers("Write the vector as numbers joined by commas.", pointer=f"{pointer}/{at}") from None
    return RawInput("vector", numbers, pointer)


def _parsed(raw: RawInput, limits: Limits) -> object:
    """The vector in a body or a file: JSON, or what this codec stored."""
    if not isinstance(raw.content, bytes):
        raise NotNumbers("A vector is a list of numbers.", pointer=raw.pointer)
    if len(raw.content) > limits.vector_dim * _BYTES_A_NUMBER:
        raise VectorTooLong(f"The vector is over the limit of {limits.vector_dim} numbers.", pointer=raw.pointer)
    if raw.media_type == FLOAT32_MEDIA_TYPE:
        if len(raw.content) % 4:
            raise NotNumbers("These bytes are no whole number of float32 values.", pointer=raw.pointer)
        return np.frombuffer(raw.content, dtype="<f4")
    try:
        return json.loads(raw.content)
    except (ValueError, RecursionError):
        raise NotNumbers("A vector is a JSON list of numbers; this is not JSON.", pointer=raw.pointer) from None


def _float32(content: Sequence[object] | NDArray[np.generic], pointer: str) -> NDArray[np.float32]:
    """Numbers in little-endian float32; what is beyond its range becomes infinite."""
    if type(content) is list and sys.byteorder == "little" and set(map(type, content)) == {float}:
        return np.frombuffer(array("f", content), dtype="<f4")
    with np.errstate(over="ignore"):
        return _numbers(content, pointer).astype("<f4")


def _numbers(content: Sequence[object] | NDArray[np.generic], pointer: str) -> NDArray[np.float64]:
    """All at once; only where that fails, or may have read a boolean as a number, element by element."""
    if isinstance(content, np.ndarray):
        return content.astype(np.float64)
    try:
        values = np.frombuffer(array("d", cast("Sequence[float]", content)), dtype=np.float64)
    except (TypeError, OverflowError):
        _refuse_not_numbers(content, pointer)
        raise NotNumbers("A vector holds numbers only.", pointer=pointer) from None
    if bool(((values == 0) | (values == 1)).any()) and bool in set(map(type, content)):
        _refuse_not_numbers(content, pointer)
    return values


def _refuse_not_numbers(content: Sequence[object], pointer: str) -> None:
    for at, value in enumerate(content):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise NotNumbers("A vector holds numbers only.", pointer=f"{pointer}/{at}")
        if isinstance(value, int) and abs(value) > 10**300:
            raise NotFinite("This number is beyond the range of float32.", pointer=f"{pointer}/{at}")


def _refuse_not_finite(content: Sequence[object] | NDArray[np.generic], values: NDArray[np.float32], at: str) -> None:
    first = int(np.flatnonzero(~np.isfinite(values))[0])
    value = float(content[first])  # type: ignore[arg-type]  # it was converted just above
    what = f"{value!r} is not finite" if not math.isfinite(value) else f"{value!r} is beyond the range of float32"
    raise NotFinite(f"A vector holds finite numbers only: {what}.", pointer=f"{at}/{first}")
