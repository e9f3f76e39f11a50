"""Training mode and evaluation mode."""

from collections.abc import Iterator
from contextlib import contextmanager

from app.backbones._base import Backbone


@contextmanager
def as_served(backbone: Backbone) -> Iterator[None]:
    """The backbone in evaluation mode, for this block."""
    training = [one for one in backbone.modules() if one.training]
    for one in training:
        one.training = False
    try:
        yield
    finally:
        for one in training:
            one.training = True
