"""What every codec is: from an input as it came to a tensor on the CPU."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Literal, NoReturn, final

import numpy as np
import torch
from jaxtyping import Shaped
from numpy.typing import NDArray
from torch import Tensor

from app.backbones._base import Modality
from app.codecs._errors import TooManyInputs, WrongKind
from app.core.errors import Fault, ImprintError
from app.core.limits import Limits

MOST_FAULTS: Final = 20
"""How many faults one answer lists: enough to see what went wrong, and a bounded answer."""

_FIELDS: Final = {
    "image": "image_b64 (base64) or the file's bytes",
    "text": "text",
    "vector": "vector (a list of numbers)",
}


@dataclass(frozen=True, eq=False)
class RawInput:
    """One input as it came, not yet decoded.

    `content` is bytes for "bytes", a string for "base64" and "text", a list of numbers (or a
    float array of one axis) for "vector"; it is not checked here. `pointer` is the JSON pointer to it. `media_type`
    is what the caller declared: codecs look at the content and don't trust it.
    """

    kind: Literal["bytes", "base64", "text", "vector"]
    content: bytes | str | Sequence[object] | NDArray[np.floating]
    pointer: str
    media_type: str | None = None


@dataclass(frozen=True, eq=False)
class DecodedInput:
    """One input, decoded.

    `tensor` is one example in the backbone's input form, without a batch axis. `content` is what to
    store: the image file as sent, the UTF-8 of the text, the little-endian float32 of the vector.
    A `RawInput` of kind "bytes" with `content` and `media_type` decodes to the same again.
    `sha256` is that of `content`, hex. `truncated`: the backbone sees the beginning only.
    """

    tensor: Shaped[Tensor, "..."]
    content: bytes
    media_type: str
    truncated: bool = False

    @property
    def sha256(self) -> str:
        """Reckoned when it is first asked for, which may take long: predictions that are not recorded need none."""
        # Not `cached_property`: before Python 3.12 that has one lock for all inputs of all threads.
        found: str | None = self.__dict__.get("_sha256")
        if found is None:
            found = self.__dict__["_sha256"] = hashlib.sha256(self.content).hexdigest()
        return found


class Codec(ABC):
    """Turns inputs of one modality into tensors. Holds no state between calls: safe on many threads.

    Every method is synchronous and uses the CPU alone: call it from a thread pool.
    """

    modality: ClassVar[Modality]
    inputs_a_piece: ClassVar[int] = 256
    """So many inputs of one request are a piece of work for a thread, which others may have to wait for."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits

    @abstractmethod
    def decode(self, raw: RawInput) -> DecodedInput:
        """Decode one input. Raises: an `ImprintError` with the input's pointer, and nothing else."""

    def decode_many(self, raws: Sequence[RawInput]) -> Iterator[DecodedInput | ImprintError]:
        """Decode each input, lazily; where one is bad, its error takes its place."""
        for raw in raws:
            try:
                yield self.decode(raw)
            except ImprintError as error:
                yield error

    def check_together(self, raws: Sequence[RawInput], inputs: Sequence[DecodedInput]) -> None:
        """Refuse inputs that are each right but do not fit one another. By default all fit."""
        del raws, inputs

    def is_quick(self, raws: Sequence[RawInput]) -> bool:
        """Does it cost less to decode them here than to go to a thread? By default it does not."""
        del raws
        return False

    def expecting(self, dim: int | None) -> "Codec":
        """The same codec, held to vectors of `dim` numbers; images and texts have one size anyway."""
        del dim
        return self

    def stack(self, tensors: Sequence[Shaped[Tensor, "..."]]) -> Shaped[Tensor, "n ..."]:
        """Make one batch of at least one example, padded where the modality pads. One alone is not copied."""
        return tensors[0].unsqueeze(0) if len(tensors) == 1 else torch.stack(list(tensors))

    def refuse_kind(self, raw: RawInput) -> NoReturn:
        """Say which kind of input this codec reads. Raises: `WrongKind`."""
        raise WrongKind(
            f"This backbone reads inputs of the modality {self.modality!r}: "
            f"send {_FIELDS[self.modality]}, not {raw.kind}.",
            pointer=raw.pointer,
        )


def decode_inputs(codec: Codec, raws: Sequence[RawInput]) -> list[DecodedInput]:
    """Decode the inputs of one request, in order.

    Raises: `TooManyInputs`; else one error that lists the faults (20 at most) of all bad inputs of
    the same family as the first bad one.
    """
    if len(raws) > codec.limits.inputs:
        raise TooManyInputs(f"{len(raws)} inputs are given; the limit is {codec.limits.inputs} a request.")
    return decode_all(codec, raws)


def decode_all(codec: Codec, raws: Sequence[RawInput]) -> list[DecodedInput]:
    """`decode_inputs` without the limit on their number."""
    if len(raws) == 1:
        return [codec.decode(raws[0])]
    gathered = Gathered()
    gathered.take(codec.decode_many(raws))
    return gathered.all_of(codec, raws)


@final
class Gathered:
    """The results of one request's inputs, taken in order."""

    def __init__(self) -> None:
        self._inputs: list[DecodedInput] = []
        self._errors: list[ImprintError] = []

    def take(self, results: Iterable[DecodedInput | ImprintError]) -> bool:
        """Take the next ones. Are more wanted? Not where an answer would list no more faults."""
        for result in results:
            if isinstance(result, DecodedInput):
                self._inputs.append(result)
            elif not self._errors or _family(result) is _family(self._errors[0]):
                self._errors.append(result)
                if len(self._errors) == MOST_FAULTS:
                    return False
        return True

    def all_of(self, codec: Codec, raws: Sequence[RawInput]) -> list[DecodedInput]:
        """The decoded inputs of all `raws`. Raises: what `decode_inputs` raises of bad ones."""
        if self._errors:
            raise together(self._errors)
        codec.check_together(raws, self._inputs)
        return self._inputs


def together(errors: Sequence[ImprintError]) -> ImprintError:
    """One error for several of one family: it keeps their common code, and every fault (20 at most)."""
    first = errors[0]
    if len(errors) == 1:
        return first
    faults: list[Fault] = [fault for error in errors for fault in error.faults][:MOST_FAULTS]
    kind = type(first) if all(type(error) is type(first) for error in errors) else _family(first)
    several = f"at least {len(errors)}" if len(errors) == MOST_FAULTS else str(len(errors))
    return kind(f"{first.detail} ({several} inputs or labels are at fault: see errors.)", faults=faults)


def _family(error: ImprintError) -> type[ImprintError]:
    """The direct subclass of `ImprintError` that decides the status."""
    lineage = type(error).__mro__
    return lineage[lineage.index(ImprintError) - 1]
