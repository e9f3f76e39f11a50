"""Texts with a label each: CSV, TSV or JSON lines."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import torch

from app.codecs import Codec, DecodedInput, RawInput
from app.training.datasets._splits import SplitSettings, classes_of, quoted
from app.training.errors import BadData, BadRecipe
from app.training.sampler import Pool

_DELIMITERS: Final = {".csv": ",", ".tsv": "\t"}
_SUFFIXES: Final = (*_DELIMITERS, ".jsonl")


@dataclass(frozen=True)
class Settings(SplitSettings):
    """Of a file of texts."""

    file: str = field(
        default="", metadata={"description": "The file, .csv, .tsv or .jsonl; empty: all.*, or the only one."}
    )
    text: str = field(default="text", metadata={"description": "The column or key of the text."})
    label: str = field(default="label", metadata={"description": "The column or key of the label."})


def load(folder: Path, split: str, codec: Codec, settings: Settings) -> Pool:
    """The classes of one split, as token ids: int64 (n, tokens), padded with 0 to the longest text.

    A text that is twice under a label counts once: it could be its own query.
    Raises: `BadData` for a file that cannot be read (with the line), too few classes, a class in two splits;
    `BadRecipe` where the backbone reads no texts; `OSError`.
    """
    if codec.modality != "text":
        raise BadRecipe(f"The data set 'texts' holds texts; the backbone of the recipe reads {codec.modality}s.")
    path = _file(folder, settings.file)
    texts: dict[str, dict[str, int]] = {}
    for line, text, label in _rows(path, settings):
        texts.setdefault(label, {}).setdefault(text, line)
    wanted = classes_of(split, folder, settings, list(texts))
    lines = [(line, text) for name in wanted for text, line in texts[name].items()]
    results = codec.decode_many([RawInput("text", text, "") for _, text in lines])
    tokens = []
    for (line, _), result in zip(lines, results, strict=True):
        if not isinstance(result, DecodedInput):
            raise BadData(f"{path.name!r}, line {line}: {result}")
        tokens.append(result.tensor)
    counts = [len(texts[name]) for name in wanted]
    return Pool.of_classes(torch.split(codec.stack(tokens), counts), wanted)


def _file(folder: Path, name: str) -> Path:
    if name:
        return folder / name
    found = sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES)
    found = [path for path in found if path.stem == "all"] or found
    if len(found) != 1:
        files = quoted([path.name for path in found]) or "none"
        raise BadData(f"The folder {folder.name!r} must hold one file of texts, or 'file' name one; found: {files}.")
    return found[0]


def _rows(path: Path, settings: Settings) -> Iterator[tuple[int, str, str]]:
    """The line number, text and label of each example. Raises: `BadData`, `OSError`."""
    if path.suffix not in _SUFFIXES:
        raise BadData(f"{path.name!r} is no file of texts: its name must end in {', '.join(_SUFFIXES)}.")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = _json_rows(file) if path.suffix == ".jsonl" else _csv_rows(file, _DELIMITERS[path.suffix])
            for line, row in lines:
                where = f"{path.name!r}, line {line}"
                yield line, _value(row, settings.text, where), _value(row, settings.label, where)
    except UnicodeDecodeError as error:
        raise BadData(f"{path.name!r} is not UTF-8: convert it.") from error
    except (csv.Error, json.JSONDecodeError) as error:
        raise BadData(f"{path.name!r} cannot be read: {error}.") from error


def _csv_rows(file: Iterator[str], delimiter: str) -> Iterator[tuple[int, object]]:
    reader = csv.DictReader(file, delimiter=delimiter, strict=True)
    for row in reader:
        yield reader.line_num, row


def _json_rows(file: Iterator[str]) -> Iterator[tuple[int, object]]:
    for number, line in enumerate(file, start=1):
        if line.strip():
            yield number, json.loads(line)


def _value(row: object, key: str, where: str) -> str:
    value = row.get(key) if isinstance(row, dict) else None
    if type(value) is int:
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        known = quoted([str(one) for one in row]) if isinstance(row, dict) else "none"
        raise BadData(f"{where}: there is no string under {key!r}; the keys are {known}.")
    return value
