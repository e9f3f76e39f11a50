"""Data sets for meta-training, found by file name.

Each module has frozen `Settings` and `load(folder, split, codec, settings) -> Pool`.
"""

import importlib
import pkgutil
from pathlib import Path

from app.codecs import Codec
from app.core.errors import InvalidSetting, UnknownName
from app.learners._settings import read_settings
from app.training.data_section import Data, Part, Source
from app.training.datasets._splits import quoted
from app.training.errors import BadData, BadRecipe
from app.training.sampler import Pool, joined


def dataset_names() -> tuple[str, ...]:
    """The names of all data sets, sorted."""
    return tuple(sorted(found.name for found in pkgutil.iter_modules(__path__) if not found.name.startswith("_")))


def load(data: Data, folder: Path, part: Part, codec: Codec) -> Pool:
    """The examples of one part of a recipe's `data`, as `codec` decodes them; `folder` holds the sources' folders.

    Of several sources, the names of classes are prefixed by the source's folder. Raises: `UnknownName` for a data
    set without a module; `BadRecipe` for its settings; `BadData` for what cannot be used; `OSError` where the data is
    not there.
    """
    pools = []
    if not data.splits_of(part):
        raise BadRecipe(f"The recipe is wrong at 'data.{part}': no split serves this part.")
    for source, split in data.splits_of(part):
        pool = joined([_load(source, folder, one, codec) for one in split.split("+")])
        if data.sources[1:]:
            pool = Pool(pool.inputs, pool.labels, tuple(f"{source.place}/{name}" for name in pool.names))
        pools.append(pool)
    pool = joined(pools)
    if len(set(pool.names)) < len(pool.names):
        raise BadData(f"A class is twice in {data.title(part)!r}: its splits overlap.")
    return mirrored(pool) if data.mirror_classes and part == "train" else pool


def mirrored(pool: Pool) -> Pool:
    """The classes of a pool of images, and the mirror image of each as a class of its own.

    Raises: `BadRecipe` where the examples are no images.
    """
    if pool.inputs.ndim != 4:
        raise BadRecipe("The recipe is wrong at 'data.mirror_classes': only images have a mirror image.")
    names = tuple(f"{name}/mirrored" for name in pool.names)
    return joined([pool, Pool(pool.inputs.flip(-1), pool.labels, names)])


def require(pool: Pool, way: int, images: int, what: str) -> None:
    """Refuse a pool that is too small for episodes of `way` classes with `images` examples each.

    `what` names the pool ('photos/val'). Raises: `BadData` that says which classes lack examples.
    """
    enough = int((pool.counts >= images).sum())
    if enough >= way:
        return
    small = [f"{name} ({n})" for name, n in zip(pool.names, pool.counts.tolist(), strict=True) if n < images]
    lacking = f" Too small are {quoted(small)}." if small else ""
    raise BadData(
        f"{what!r} has {len(pool.names)} classes, {enough} of them with {images} or more examples; the episodes of the "
        f"recipe need {way} such classes.{lacking} Ask for a smaller way, shot or number of queries, or add examples."
    )


def _load(source: Source, folder: Path, split: str, codec: Codec) -> Pool:
    if source.name not in dataset_names():
        raise UnknownName(kind="data set", name=source.name, known=dataset_names(), pointer="/data/name")
    module = importlib.import_module(f"{__name__}.{source.name}")
    try:
        settings = read_settings(module.Settings, source.settings)
    except InvalidSetting as error:
        raise BadRecipe(f"The recipe is wrong at the settings of the data set {source.name!r}: {error}") from error
    place = folder / source.place
    if not place.is_dir():
        raise NotADirectoryError(f"There is no folder {source.place!r} in the data folder.")
    pool: Pool = module.load(place, split, codec, settings)
    return pool
