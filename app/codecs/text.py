"""Texts: UTF-8 to token ids, by the tokenizer that belongs to the checkpoint."""

import importlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, final

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from app.backbones._base import Modality
from app.codecs._base import Codec, DecodedInput, RawInput
from app.codecs._errors import BadText, EmptyText, NotUtf8, TextTooLong
from app.core.errors import ImprintError
from app.core.limits import Limits

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

_BATCH_TEXTS: Final = 256
_QUICK_CHARACTERS: Final = 200
"""Of all texts of a request: so many take 0.1 ms to tokenize, and so does the way to a thread and back."""

_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_MEDIA_TYPE: Final = "text/plain; charset=utf-8"


@final
class TextCodec(Codec):
    """Tokenizes texts up to the card's `max_tokens`, and says where a text was cut.

    Tensor: int64 (tokens,), no padding, no 0; `stack` pads with 0 at the end, to the longest. The text is
    taken as it is: a literal "[PAD]" in it is read as characters. Raises: `ValueError` for a
    preprocessing or tokenizer file that cannot be, `ModuleNotFoundError` without the package tokenizers.
    """

    modality: ClassVar[Modality] = "text"

    def __init__(self, tokenizer_path: Path, preprocessing: Mapping[str, object], limits: Limits) -> None:
        super().__init__(limits)
        max_tokens = preprocessing.get("max_tokens")
        if set(preprocessing) != {"max_tokens"} or type(max_tokens) is not int:
            raise ValueError("The preprocessing of texts must hold max_tokens, a whole number, and nothing else.")
        self.max_tokens = max_tokens
        self._tokenizer = _load(tokenizer_path, max_tokens)
        self._added = self._tokenizer.num_special_tokens_to_add(False)

    def decode(self, raw: RawInput) -> DecodedInput:
        """Tokenize a text, or UTF-8 bytes.

        Raises: `NotUtf8`, `BadText`, `EmptyText` (422); `TextTooLong` (413), before tokenizing.
        """
        text = self._text_of(raw)
        return self._finish(text, self._tokenizer.encode(text), raw.pointer)

    def decode_many(self, raws: Sequence[RawInput]) -> Iterator[DecodedInput | ImprintError]:
        """Tokenize in batches, which is a little faster; each result is that of `decode`."""
        for start in range(0, len(raws), _BATCH_TEXTS):
            yield from self._decode_batch(raws[start : start + _BATCH_TEXTS])

    def is_quick(self, raws: Sequence[RawInput]) -> bool:
        """So it is for a sentence or two."""
        return sum(map(_length, raws)) <= _QUICK_CHARACTERS

    def stack(self, tensors: Sequence[Int64[Tensor, " _"]]) -> Int64[Tensor, "n tokens"]:
        """One batch, padded with 0 at the end to its longest text."""
        return tensors[0][None] if len(tensors) == 1 else pad_sequence(list(tensors), batch_first=True, padding_value=0)

    def _decode_batch(self, raws: Sequence[RawInput]) -> Iterator[DecodedInput | ImprintError]:
        texts: list[str | ImprintError] = []
        for raw in raws:
            try:
                texts.append(self._text_of(raw))
            except ImprintError as error:
                texts.append(error)
        encodings = iter(self._tokenizer.encode_batch_fast([text for text in texts if isinstance(text, str)]))
        for raw, text in zip(raws, texts, strict=True):
            try:
                yield text if isinstance(text, ImprintError) else self._finish(text, next(encodings), raw.pointer)
            except EmptyText as error:
                yield error

    def _text_of(self, raw: RawInput) -> str:
        if raw.kind == "text" and isinstance(raw.content, str):
            text = raw.content
        elif raw.kind == "bytes" and isinstance(raw.content, bytes):
            # A character has 4 bytes at most: what is longer need not be decoded to be refused.
            self._check_length(len(raw.content) // 4, raw.pointer)
            text = _utf8(raw.content, raw.pointer)
        else:
            self.refuse_kind(raw)
        self._check_length(len(text), raw.pointer)
        if not text.strip():
            raise EmptyText("The text is empty or white space only.", pointer=raw.pointer)
        if "\0" in text:
            raise BadText("The text holds a NUL character: is this a binary file?", pointer=raw.pointer)
        if _SURROGATE.search(text):
            raise BadText("The text holds a lone surrogate, half of a character.", pointer=raw.pointer)
        return text

    def _check_length(self, characters: int, pointer: str) -> None:
        limit = self.limits.text_characters
        if characters > limit:
            raise TextTooLong(f"The text is over the limit of {limit} characters.", pointer=pointer)

    def _finish(self, text: str, encoding: "Encoding", pointer: str) -> DecodedInput:
        if len(encoding.ids) <= self._added:
            raise EmptyText("The text holds nothing to read: invisible characters only.", pointer=pointer)
        ids = torch.tensor(encoding.ids, dtype=torch.int64)
        return DecodedInput(ids, text.encode(), _MEDIA_TYPE, truncated=bool(encoding.overflowing))


def _length(raw: RawInput) -> int:
    return len(raw.content)


def _utf8(content: bytes, pointer: str) -> str:
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise NotUtf8(
            f"The text is not UTF-8: the byte at {error.start} is wrong. Convert it to UTF-8.", pointer=pointer
        ) from None


def _load(path: Path, max_tokens: int) -> "Tokenizer":
    """The tokenizer without the padding and truncation that its file may ask for, with ours.

    It is not changed afterwards, so that many threads can share it.
    """
    # The package comes with the extra `text`: who serves images alone can do without.
    tokenizers = importlib.import_module("tokenizers")
    try:
        tokenizer: Tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"The tokenizer file cannot be read: {error}") from error
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length=max_tokens)
    tokenizer.encode_special_tokens = True
    return tokenizer
