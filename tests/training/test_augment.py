import pytest
import torch
from torch import Tensor

from app.training.augment import augment
from app.training.data_section import Augmentation

GLYPH_MOVES = [
    Augmentation(rotation_degrees=8.0),
    Augmentation(shear=0.2),
    Augmentation(scale=0.2),
    Augmentation(shift_pixels=3.0),
    Augmentation(thick_share=1.0),
]
PHOTO_MOVES = [
    Augmentation(crop_padding=4),
    Augmentation(crop_padding=4, crop_fill="reflect"),
    Augmentation(flip_share=0.5),
    Augmentation(brightness=0.4),
    Augmentation(contrast=0.4),
    Augmentation(saturation=0.4),
    Augmentation(erase_share=0.7),
]
EVERYTHING = Augmentation(8.0, 0.1, 0.1, 2.0, 0.3, 0.3, 4, "reflect", 0.5, 0.4, 0.4, 0.4, 0.5, 8)


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def glyphs() -> Tensor:
    """8 classes of 6 blobs, ink on black."""
    coarse = torch.rand(8, 1, 1, 4, 4, generator=_seeded(0)) > 0.6
    noise = torch.rand(8, 6, 1, 28, 28, generator=_seeded(1))
    shapes = coarse.float().repeat_interleave(7, -1).repeat_interleave(7, -2)
    return ((0.6 * shapes + 0.4 * noise) * 255).to(torch.uint8)


@pytest.fixture
def photos() -> Tensor:
    """5 classes of 4 images, higher than wide, of any colours."""
    return torch.randint(0, 256, (5, 4, 3, 12, 10), dtype=torch.uint8, generator=_seeded(0))


def test_no_augmentation_leaves_every_image_as_it_is(glyphs: Tensor, photos: Tensor) -> None:
    assert torch.equal(augment(glyphs, Augmentation(), _seeded(0)), glyphs)
    assert torch.equal(augment(photos, Augmentation(), _seeded(0)), photos)


@pytest.mark.parametrize("how", [*GLYPH_MOVES, *PHOTO_MOVES, EVERYTHING])
def test_each_change_keeps_shape_and_type_and_is_repeated_by_the_seed(photos: Tensor, how: Augmentation) -> None:
    changed = augment(photos, how, _seeded(1))
    assert changed.dtype == torch.uint8
    assert changed.shape == photos.shape
    assert not torch.equal(changed, photos)
    assert torch.equal(changed, augment(photos, how, _seeded(1)))
    assert not torch.equal(changed, augment(photos, how, _seeded(2)))


@pytest.mark.parametrize("how", [*PHOTO_MOVES, EVERYTHING])
def test_augmenting_changes_neither_its_inputs_nor_the_global_generator(photos: Tensor, how: Augmentation) -> None:
    before, state = photos.clone(), torch.random.get_rng_state()
    augment(photos, how, _seeded(1))
    assert torch.equal(photos, before)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("how", [*GLYPH_MOVES, *(one for one in PHOTO_MOVES if not one.saturation)])
def test_glyphs_of_one_channel_take_every_change_but_that_of_colour(glyphs: Tensor, how: Augmentation) -> None:
    changed = augment(glyphs, how, _seeded(1))
    assert changed.shape == glyphs.shape
    assert not torch.equal(changed, glyphs)


def test_saturation_leaves_grey_images_alone(glyphs: Tensor) -> None:
    grey = glyphs.expand(-1, -1, 3, -1, -1)
    assert torch.equal(augment(glyphs, Augmentation(saturation=0.9), _seeded(1)), glyphs)
    assert torch.equal(augment(grey, Augmentation(saturation=0.9), _seeded(1)), grey)


def test_thick_strokes_never_lose_ink(glyphs: Tensor) -> None:
    assert bool((augment(glyphs, Augmentation(thick_share=1.0), _seeded(1)) >= glyphs).all())


def test_a_shift_moves_a_dot_by_no_more_than_it_says() -> None:
    glyphs = torch.zeros(50, 1, 1, 28, 28, dtype=torch.uint8)
    glyphs[..., 14, 14] = 255
    moved = augment(glyphs, Augmentation(shift_pixels=3.0), _seeded(0))
    _, _, _, rows, columns = moved.nonzero(as_tuple=True)
    assert int((rows - 14).abs().max()) in {3, 4}  # a dot between pixels touches two
    assert int((columns - 14).abs().max()) in {3, 4}


def test_all_drawings_of_a_mirrored_class_are_mirrored(glyphs: Tensor) -> None:
    mirrored = augment(glyphs, Augmentation(mirror_share=0.5), _seeded(0))
    kinds = [
        "same" if torch.equal(now, was) else "mirrored" if torch.equal(now, was.flip(-1)) else "neither"
        for now, was in zip(mirrored, glyphs, strict=True)
    ]
    assert set(kinds) == {"same", "mirrored"}


def _crops_of(image: Tensor, padding: int, fill: str) -> set[bytes]:
    """Every crop of the padded image, the slow way."""
    _, height, width = image.shape
    mode = {"zero": "constant", "reflect": "reflect"}[fill]
    padded = torch.nn.functional.pad(image[None].float(), (padding,) * 4, mode=mode)[0].to(torch.uint8)
    places = range(2 * padding + 1)
    crops = [padded[:, top : top + height, left : left + width] for top in places for left in places]
    return {crop.contiguous().numpy().tobytes() for crop in crops}


@pytest.mark.parametrize("fill", ["zero", "reflect"])
def test_a_crop_is_one_of_all_crops_of_the_padded_image_and_each_comes_up(photos: Tensor, fill: str) -> None:
    many = photos[0, 0].expand(1, 300, -1, -1, -1)
    cropped = augment(many, Augmentation(crop_padding=2, crop_fill=fill), _seeded(0))  # type: ignore[arg-type]
    assert {one.numpy().tobytes() for one in cropped[0]} == _crops_of(photos[0, 0], 2, fill)


def test_a_padding_wider_than_the_image_reflects_back_and_forth() -> None:
    ramp = torch.arange(4, dtype=torch.uint8).expand(1, 200, 1, 4, 4)
    cropped = augment(ramp, Augmentation(crop_padding=9, crop_fill="reflect"), _seeded(0))
    steps = cropped[0, :, 0, 0].int().diff(dim=-1).abs()
    assert bool((steps == 1).all())


def test_about_as_many_images_are_flipped_as_asked_for(photos: Tensor) -> None:
    many = photos[0, 0].expand(1, 400, -1, -1, -1)
    flipped = augment(many, Augmentation(flip_share=0.25), _seeded(0))[0]
    mirrored = [torch.equal(one, photos[0, 0].flip(-1)) for one in flipped]
    assert all(mirror or torch.equal(one, photos[0, 0]) for mirror, one in zip(mirrored, flipped, strict=True))
    assert 70 <= sum(mirrored) <= 130


def test_brightness_scales_each_image_by_one_factor_within_the_range() -> None:
    flat = torch.full((1, 200, 3, 4, 4), 100, dtype=torch.uint8)
    bright = augment(flat, Augmentation(brightness=0.4), _seeded(0))[0].flatten(1)
    assert bool((bright == bright[:, :1]).all())
    assert 60 <= int(bright.min()) < 65
    assert 135 < int(bright.max()) <= 140


def test_contrast_keeps_the_mean_and_scales_the_distance_from_it() -> None:
    halves = torch.tensor([100, 120], dtype=torch.uint8).repeat(8).expand(1, 200, 3, 4, 16)
    changed = augment(halves, Augmentation(contrast=0.4), _seeded(0))[0].float()
    torch.testing.assert_close(changed.mean((1, 2, 3)), torch.full((200,), 110.0), atol=0.51, rtol=0)
    spread = changed.amax((1, 2, 3)) - changed.amin((1, 2, 3))
    assert 12 <= float(spread.min()) < 14
    assert 26 < float(spread.max()) <= 28


def test_saturation_keeps_the_grey_of_a_pixel_and_scales_its_colour() -> None:
    colour = torch.tensor([120.0, 100.0, 80.0])
    image = colour.to(torch.uint8)[:, None, None].expand(1, 200, 3, 4, 4)
    changed = augment(image, Augmentation(saturation=0.5), _seeded(0))[0, :, :, 0, 0].float()
    luma = torch.tensor([0.299, 0.587, 0.114])
    torch.testing.assert_close(changed @ luma, (colour @ luma).expand(200), atol=0.6, rtol=0)
    spread = changed[:, 0] - changed[:, 2]
    assert 19 <= float(spread.min()) < 24
    assert 56 < float(spread.max()) <= 61


def test_an_erased_square_has_the_mean_colour_and_no_more_pixels_than_its_side_allows() -> None:
    image = torch.zeros(1, 100, 1, 16, 16, dtype=torch.uint8)
    image[..., 8:] = 200
    erased = augment(image, Augmentation(erase_share=1.0, erase_pixels=5), _seeded(0))
    changed = erased != image
    assert bool((erased[changed] == 100).all())
    sizes = changed.flatten(2).sum(2)
    assert int(sizes.max()) == 25
    assert int(sizes.min()) >= 4  # a corner of it is always in the image


@pytest.mark.gpu
@pytest.mark.parametrize("how", [*GLYPH_MOVES, *PHOTO_MOVES, EVERYTHING])
def test_the_same_seed_changes_images_on_a_gpu_as_on_the_cpu(photos: Tensor, how: Augmentation) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    here, there = (augment(photos.to(device), how, _seeded(1)).cpu().int() for device in ("cpu", "cuda"))
    # One where a number is rounded the other way; where colours change after such a one, what the next test finds.
    assert int((here - there).abs().max()) <= (4 if how is EVERYTHING else 1)


def test_a_level_more_or_less_before_the_colours_is_four_after_them_at_most() -> None:
    # Red goes one way and blue the other: 1.4 * 1.4 * (1.4 - 0.4 * 0.114 + 0.4 * 0.886) levels of blue; and the mean
    # grey, if all else goes against it, 1.4 * 0.4 more. That is 3.91, and so 4 when rounded.
    colours = Augmentation(brightness=0.4, contrast=0.4, saturation=0.4, erase_share=0.5)
    images = torch.randint(60, 140, (1, 3000, 3, 12, 10), dtype=torch.uint8, generator=_seeded(0))
    others = images.clone()
    others[:, :, :2] -= 1
    others[:, :, 2] += 1
    before, after = (augment(one, colours, _seeded(2)).int() for one in (images, others))
    assert int((before - after).abs().max()) == 4
