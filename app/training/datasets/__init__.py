"""Data sets for meta-training, found by file name: each module has `load(folder, split) -> Pool`."""

import importlib
import pkgutil
from pathlib import Path

from app.core.errors import UnknownName
from app.training.sampler import Pool


def dataset_names() -> tuple[str, ...]:
    """The names of all data sets, sorted."""
    return tuple(sorted(found.name for found in pkgutil.iter_modules(__path__) if not found.name.startswith("_")))


def load(name: str, folder: Path, split: str) -> Pool:
    """The classes of one split; `folder` holds one folder per data set.

    Raises: `UnknownName` for a data set without a module, `OSError` where the data is not there.
    """
    if name not in dataset_names():
        raise UnknownName(kind="data set", name=name, known=dataset_names(), pointer="/data/name")
    module = importlib.import_module(f"{__name__}.{name}")
    pool: Pool = module.load(folder / name, split)
    return pool
