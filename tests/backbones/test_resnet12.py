from itertools import pairwise

import pytest
import torch

from app import backbones
from app.backbones.resnet12 import ResNet12, Settings, drop_squares
from app.core.errors import InvalidSetting

SMALL = Settings(widths=(8, 12, 16, 24))


@pytest.fixture
def network() -> ResNet12:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = ResNet12(SMALL)
        network.train()(_photos(32, seed=2))  # some running statistics
    return network.eval().requires_grad_(False)


def _photos(n: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_a_photograph_becomes_as_many_numbers_as_the_last_block_has_filters(network: ResNet12) -> None:
    assert network.dim == 24
    assert network(_photos(3)).shape == (3, 24)
    assert network(_photos(0)).shape == (0, 24)


def test_the_network_has_the_parameters_that_the_papers_count() -> None:
    # Convolutions 3x3 three a block and 1x1 one a block without biases, each with two numbers a filter.
    widths = (3, 64, 160, 320, 640)
    expected = sum(
        9 * before * after + 2 * 9 * after * after + before * after + 4 * 2 * after
        for before, after in pairwise(widths)
    )
    assert sum(weight.numel() for weight in ResNet12(Settings()).parameters()) == expected
    assert 12.4e6 < expected < 12.5e6


def test_an_embedding_is_the_same_alone_batched_and_reordered(network: ResNet12) -> None:
    photos = _photos(7)
    together = network(photos)
    order = torch.tensor([3, 0, 6, 2, 1, 5, 4])
    torch.testing.assert_close(network(photos[order]), together[order], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(network(photos[2:3])[0], together[2], atol=1e-5, rtol=1e-5)


def test_a_block_is_the_sum_of_its_two_ways(network: ResNet12) -> None:
    block, images = network.blocks[0], torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def active(x: torch.Tensor) -> torch.Tensor:
        return torch.where(x > 0, x, 0.1 * x)

    inner = block.third(active(block.second(active(block.first(images)))))
    expected = torch.nn.functional.max_pool2d(active(inner + block.shortcut(images)), 2)
    torch.testing.assert_close(block(images), expected)


@pytest.mark.parametrize("square", [1, 2, 3])
def test_dropping_keeps_the_mean_and_drops_about_the_share_that_is_set(square: int) -> None:
    images = torch.ones(64, 32, 8, 8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dropped = drop_squares(images, 0.1, square)
    assert abs(float(dropped.mean()) - 1) < 0.01
    assert 0.07 < float((dropped == 0).float().mean()) < 0.11


def test_squares_are_dropped_whole() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        dropped = drop_squares(torch.ones(1, 64, 8, 8), 0.02, 3)[0] == 0
    alone = [int(one.sum()) for one in dropped if one.any()]
    assert alone
    assert all(count >= 9 for count in alone)


def test_nothing_is_dropped_in_evaluation() -> None:
    network = ResNet12(Settings(widths=(8, 8, 8, 8), drop_rate=0.5)).eval()
    torch.testing.assert_close(network(_photos(2)), network(_photos(2)), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("settings", "pointer"),
    [
        ({"widths": [64, 64]}, "widths"),
        ({"widths": [64, 64, "a", 64]}, "widths"),
        ({"drop_rate": 1.0}, "drop_rate"),
        ({"channels": 2}, "channels"),
        ({"image_size": 8}, "image_size"),
        ({"drop_block": 0}, "drop_block"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(settings: dict[str, object], pointer: str) -> None:
    with pytest.raises(InvalidSetting) as refused:
        backbones.build("resnet12", settings)
    assert refused.value.faults[0].pointer == f"/architecture_settings/{pointer}"
