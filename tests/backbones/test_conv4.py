import pytest
import torch

from app import backbones
from app.backbones.conv4 import Conv4, Settings
from app.core.errors import InvalidSetting


@pytest.fixture
def network() -> Conv4:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Conv4(Settings())
        network.train()(torch.randint(0, 256, (32, 1, 28, 28), dtype=torch.uint8))  # some running statistics
    return network.eval().requires_grad_(False)


def _glyphs(n: int) -> torch.Tensor:
    return torch.randint(0, 256, (n, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_a_glyph_becomes_64_numbers(network: Conv4) -> None:
    assert network.dim == 64
    assert network.input_shape == (1, 28, 28)
    assert network(_glyphs(3)).shape == (3, 64)
    assert network(_glyphs(0)).shape == (0, 64)


def test_settings_decide_filters_and_size() -> None:
    network = Conv4(Settings(filters=8, image_size=32)).eval()
    assert network.dim == 32
    assert network(torch.zeros(2, 1, 32, 32, dtype=torch.uint8)).shape == (2, 32)


def test_the_network_has_the_parameters_of_the_paper(network: Conv4) -> None:
    # Four 3x3 convolutions with biases, and two numbers a channel of batch normalisation.
    convolutions = 64 * (9 * 1 + 1) + 3 * 64 * (9 * 64 + 1)
    assert sum(weight.numel() for weight in network.parameters()) == convolutions + 4 * 2 * 64


def test_the_output_equals_the_blocks_as_the_paper_orders_them(network: Conv4) -> None:
    expected = _glyphs(5).double() / 255
    wide = Conv4(Settings()).double().eval()
    wide.load_state_dict(network.state_dict())
    for block in wide.blocks:
        expected = torch.nn.functional.max_pool2d(torch.relu(block.norm(block.conv(expected))), 2)
    torch.testing.assert_close(network(_glyphs(5)).double(), expected.flatten(1), atol=1e-5, rtol=1e-5)


def test_an_embedding_is_the_same_alone_batched_and_reordered(network: Conv4) -> None:
    glyphs = _glyphs(9)
    together = network(glyphs)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(network(glyphs[order]), together[order], atol=1e-5, rtol=1e-5)
    for row in range(9):
        torch.testing.assert_close(network(glyphs[row : row + 1])[0], together[row], atol=1e-5, rtol=1e-5)


def test_each_block_may_have_a_width_of_its_own() -> None:
    network = backbones.build("conv4", {"channels": 3, "image_size": 32, "widths": [8, 8, 16, 24]}).eval()
    assert network.dim == 24 * 4
    assert network(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape == (2, 96)


def test_group_normalisation_makes_training_and_evaluation_alike() -> None:
    network = Conv4(Settings(filters=8, norm="group"))
    torch.testing.assert_close(network.train()(_glyphs(4)), network.eval()(_glyphs(4)))
    assert not list(network.buffers())


@pytest.mark.parametrize(
    ("settings", "pointer"),
    [
        ({"norm": "layer"}, "norm"),
        ({"channels": 2}, "channels"),
        ({"widths": [8, 8]}, "widths"),
        ({"widths": [0, 8, 8, 8]}, "widths"),
        ({"widths": [8.0, 8, 8, 8]}, "widths"),
        ({"norm": "group", "filters": 12}, "widths"),
        ({"image_size": 8}, "image_size"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(settings: dict[str, object], pointer: str) -> None:
    with pytest.raises(InvalidSetting) as refused:
        backbones.build("conv4", settings)
    assert refused.value.faults[0].pointer == f"/architecture_settings/{pointer}"
