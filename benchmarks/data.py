"""The data sets, where IMPRINT_DATA says they are."""

import json
import os
import sys
import zipfile
from pathlib import Path


def data_dir() -> Path:
    """The folder of data sets; without it the benchmark ends with a sentence."""
    value = os.environ.get("IMPRINT_DATA")
    if not value or not Path(value).is_dir():
        sys.exit("Set IMPRINT_DATA to the folder of data sets (omniglot/, text/, clothing/, cifar_fs/).")
    return Path(value)


def sentences(name: str, part: str) -> list[tuple[str, str]]:
    """(text, label) pairs of an intent set's part: `sentences("clinc150", "train_5")`."""
    path = data_dir() / "text" / name / f"{part}.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [(row["text"], row["label"]) for row in rows]


def clothing(part: str) -> list[tuple[bytes, str]]:
    """(file, label) pairs of the clothing photographs: part is train or test."""
    found = []
    with zipfile.ZipFile(data_dir() / "clothing" / "clothing_256.zip") as archive:
        for name in sorted(archive.namelist()):
            pieces = name.split("/")
            if part in pieces[:-2] and name.lower().endswith(".jpg"):
                found.append((archive.read(name), pieces[-2]))
    return found
