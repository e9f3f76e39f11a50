"""A card's preprocessing of images, checked when the checkpoint is loaded."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Literal

from PIL.Image import Resampling

Interpolation = Literal["bicubic", "bilinear", "box"]

_FILTERS: Final = {"bicubic": Resampling.BICUBIC, "bilinear": Resampling.BILINEAR, "box": Resampling.BOX}


@dataclass(frozen=True)
class ImagePreprocessing:
    """How an image becomes `channels` x `height` x `width` numbers.

    `resize`: the short side in pixels, after which the centre is cropped; or "stretch": to the
    target size, whatever the aspect. `polarity` "ink-bright": a drawing, made ink 255 on 0, whose aspect is kept
    (`app/codecs/glyph.py`). Raises: `ValueError` for what cannot be.
    """

    height: int
    width: int
    channels: int
    resize: int | Literal["stretch"]
    crop: Literal["center"] | None = None
    interpolation: Interpolation = "bicubic"
    polarity: Literal["ink-bright"] | None = None

    def __post_init__(self) -> None:
        _check(self.height > 0 and self.width > 0, "height and width must be positive")
        _check(self.channels in {1, 3}, "channels must be 1 or 3")
        if self.resize == "stretch":
            _check(self.crop is None, 'resize "stretch" leaves nothing to crop')
        else:
            _check(self.resize >= max(self.height, self.width), "resize must not be smaller than height and width")
            _check(self.crop == "center", 'resize to a short side needs crop "center"')
        if self.polarity is not None:
            _check(self.channels == 1 and self.resize == "stretch", 'polarity needs channels 1 and resize "stretch"')

    @classmethod
    def from_card(cls, preprocessing: Mapping[str, object]) -> "ImagePreprocessing":
        """Read a card's `preprocessing`. Raises: `ValueError` for an unknown, missing or wrong value."""
        values: dict[str, Any] = dict(preprocessing)
        unknown = set(values) - {part.name for part in fields(cls)}
        _check(not unknown, f"unknown keys {sorted(unknown)}")
        missing = {"height", "width", "channels", "resize"} - set(values)
        _check(not missing, f"missing keys {sorted(missing)}")
        for name in ("height", "width", "channels"):
            _check(type(values[name]) is int, f"{name} must be a whole number")
        whole = type(values["resize"]) is int
        _check(whole or values["resize"] == "stretch", 'resize must be the short side in pixels or "stretch"')
        _check(values.get("crop") in {"center", None}, 'crop must be "center" or null')
        _check(values.get("interpolation", "box") in _FILTERS, f"interpolation must be one of {sorted(_FILTERS)}")
        _check(values.get("polarity") in {"ink-bright", None}, 'polarity must be "ink-bright" or null')
        return cls(**values)

    def resampling(self, *, enlarges: bool) -> Resampling:
        """Pillow's filter. A box averages areas: where it enlarges there is nothing to average, so bicubic."""
        return Resampling.BICUBIC if enlarges and self.interpolation == "box" else _FILTERS[self.interpolation]


def _check(fine: bool, wanted: str) -> None:
    if not fine:
        raise ValueError(f"The preprocessing of images is wrong: {wanted}.")
