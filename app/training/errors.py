"""What can be wrong with a recipe or with the data that it names."""

from typing import ClassVar

from app.core.errors import Invalid


class BadRecipe(Invalid):
    """A recipe with an unknown or missing key, or a value that cannot be."""

    code: ClassVar[str] = "bad-recipe"
    title: ClassVar[str] = "The recipe is not valid"


class BadData(Invalid):
    """Data that is there and cannot be used: too few classes, an unreadable file, a class in two splits."""

    code: ClassVar[str] = "bad-data"
    title: ClassVar[str] = "The data cannot be used"
