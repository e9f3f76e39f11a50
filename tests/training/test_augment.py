from collections.abc import Callable

import pytest
import torch

from app.training.augment import augment
from app.training.recipe import Augmentation
from app.training.sampler import Pool

Alphabet = Callable[[int, int], Pool]


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_no_augmentation_leaves_every_glyph_as_it_is(alphabet: Alphabet) -> None:
    glyphs = alphabet(4, 0).inputs
    assert torch.equal(augment(glyphs, Augmentation(), _seeded(0)), glyphs)


@pytest.mark.parametrize(
    "how",
    [
        Augmentation(rotation_degrees=8.0),
        Augmentation(shear=0.2),
        Augmentation(scale=0.2),
        Augmentation(shift_pixels=3.0),
        Augmentation(thick_share=1.0),
    ],
)
def test_each_change_changes_glyphs_and_is_repeated_by_the_seed(alphabet: Alphabet, how: Augmentation) -> None:
    glyphs = alphabet(4, 0).inputs
    changed = augment(glyphs, how, _seeded(1))
    assert changed.dtype == torch.uint8
    assert changed.shape == glyphs.shape
    assert not torch.equal(changed, glyphs)
    assert torch.equal(changed, augment(glyphs, how, _seeded(1)))


def test_thick_strokes_never_lose_ink(alphabet: Alphabet) -> None:
    glyphs = alphabet(4, 0).inputs
    assert bool((augment(glyphs, Augmentation(thick_share=1.0), _seeded(1)) >= glyphs).all())


def test_a_shift_moves_a_dot_by_no_more_than_it_says() -> None:
    glyphs = torch.zeros(50, 1, 1, 28, 28, dtype=torch.uint8)
    glyphs[..., 14, 14] = 255
    moved = augment(glyphs, Augmentation(shift_pixels=3.0), _seeded(0))
    _, _, _, rows, columns = moved.nonzero(as_tuple=True)
    assert int((rows - 14).abs().max()) in {3, 4}  # a dot between pixels touches two
    assert int((columns - 14).abs().max()) in {3, 4}


def test_all_drawings_of_a_mirrored_class_are_mirrored(alphabet: Alphabet) -> None:
    glyphs = alphabet(8, 0).inputs
    mirrored = augment(glyphs, Augmentation(mirror_share=0.5), _seeded(0))
    kinds = [
        "same" if torch.equal(now, was) else "mirrored" if torch.equal(now, was.flip(-1)) else "neither"
        for now, was in zip(mirrored, glyphs, strict=True)
    ]
    assert set(kinds) == {"same", "mirrored"}
