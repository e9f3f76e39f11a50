"""The sections `data` and `augmentation` of a recipe: which examples, and how they are changed at random."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Final, Literal, get_args

from app.training.errors import BadRecipe

Part = Literal["train", "validation", "test"]
"""What a run uses examples for. Which split of a data set serves a part is said by the recipe."""

PARTS: Final[tuple[Part, ...]] = get_args(Part)


@dataclass(frozen=True)
class Source:
    """One data set: `name` is a module in `app/training/datasets`, `settings` are that module's.

    `folder` lies under the data folder; where it is empty, it is `name`. `splits` maps parts to splits of this
    source; where it is empty, the section's own hold. A part that it leaves out takes nothing from this source.
    """

    name: str
    folder: str = ""
    settings: Mapping[str, object] = field(default_factory=dict)
    splits: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(bool(self.name), "data.sources.name", "it must name a data set")
        inside = not PurePath(self.folder).is_absolute() and ".." not in PurePath(self.folder).parts
        _check(inside, "data.sources.folder", "it must lie under the data folder")
        unknown = sorted(set(self.splits) - set(PARTS))
        _check(not unknown, "data.sources.splits", f"unknown parts {unknown}; known are {list(PARTS)}")

    @property
    def place(self) -> str:
        """Its folder under the data folder; class names are prefixed by it where there are several sources."""
        return self.folder or self.name


@dataclass(frozen=True)
class Data:
    """Which examples train, validate and test, as splits (by class) of one data set or of several `sources`.

    A split may be a sum of splits ("train+val"); "all" is every class; an empty one is for a part that is not used.
    Either `name` (with `folder` and `settings`, as in `Source`) or `sources`. `mirror_classes` adds the mirror image
    of every training class as a class of its own.
    """

    name: str = ""
    folder: str = ""
    settings: Mapping[str, object] = field(default_factory=dict)
    sources: tuple[Source, ...] = ()
    train: str = "train"
    validation: str = "val"
    test: str = "test"
    mirror_classes: bool = False

    def __post_init__(self) -> None:
        _check(bool(self.name) != bool(self.sources), "data", "give either name or sources")
        alone = not (self.folder or self.settings)
        _check(bool(self.name) or alone, "data", "folder and settings belong into each of the sources")
        places = [source.place for source in self.every_source]
        _check(len(set(places)) == len(places), "data.sources", "two sources have the same folder")
        trained, tested = (dict(_classes(self, part)) for part in ("train", "test"))
        for place in trained.keys() & tested.keys():
            both = trained[place] & tested[place] or "all" in trained[place] | tested[place]
            _check(not both, "data.test", f"classes of {place!r} that are trained on cannot judge")

    @property
    def every_source(self) -> tuple[Source, ...]:
        """The sources; the one that the section itself describes, where it has a name."""
        return self.sources or (Source(self.name, self.folder, self.settings),)

    def splits_of(self, part: Part) -> list[tuple[Source, str]]:
        """The sources that serve a part, each with its split."""
        usual = {"train": self.train, "validation": self.validation, "test": self.test}
        pairs = [(source, (source.splits or usual).get(part, "")) for source in self.every_source]
        return [(source, split) for source, split in pairs if split]

    def title(self, part: Part) -> str:
        """What a card calls the classes of a part: 'omniglot/test', 'text/clinc150/val, text/hwu64/all'."""
        return ", ".join(f"{source.place}/{split}" for source, split in self.splits_of(part))


@dataclass(frozen=True)
class Augmentation:
    """How far each image is changed at random, anew whenever it is drawn; 0 is not at all.

    The first six are for glyphs, the rest for photographs; they may be mixed.
    """

    rotation_degrees: float = 0.0
    shear: float = 0.0
    scale: float = 0.0
    shift_pixels: float = 0.0
    thick_share: float = 0.0
    """The share of glyphs whose strokes are made thicker by up to a pixel on each side."""
    mirror_share: float = 0.0
    """The chance that a class is mirrored in an episode, which makes another class of it."""
    crop_padding: int = 0
    """A crop of the image's size, out of the image padded by so many pixels on each side."""
    crop_fill: Literal["zero", "reflect"] = "zero"
    """What pads: "zero", or "reflect" (the image itself, mirrored at its edge)."""
    flip_share: float = 0.0
    """The chance that an image is mirrored from left to right; 0.5 is usual."""
    brightness: float = 0.0
    """Times a factor between 1 - this and 1 + this; 0.4 is usual, for the next two as well."""
    contrast: float = 0.0
    saturation: float = 0.0
    erase_share: float = 0.0
    """The share of images in which a square takes on the mean colour."""
    erase_pixels: int = 8
    """The side of that square."""

    def __post_init__(self) -> None:
        for name in (
            "thick_share",
            "mirror_share",
            "flip_share",
            "brightness",
            "contrast",
            "saturation",
            "erase_share",
        ):
            _check(0 <= getattr(self, name) <= 1, f"augmentation.{name}", "it must lie between 0 and 1")
        for name in ("rotation_degrees", "shear", "scale", "shift_pixels", "crop_padding"):
            _check(getattr(self, name) >= 0, f"augmentation.{name}", "it must be 0 or more")
        _check(self.erase_pixels > 0, "augmentation.erase_pixels", "it must be 1 or more")


def _classes(data: Data, part: Part) -> Iterator[tuple[str, set[str]]]:
    """The folder of each source with the splits that serve a part."""
    for source, split in data.splits_of(part):
        yield source.place, set(split.split("+"))


def _check(fine: bool, where: str, wanted: str) -> None:
    if not fine:
        raise BadRecipe(f"The recipe is wrong at {where!r}: {wanted}.")
