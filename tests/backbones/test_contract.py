"""What every checkpoint promises, whatever its network. A new folder in models/ is tested with no line written."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from app.checkpoints.golden import probe_inputs
from app.checkpoints.load import Checkpoint

CARDS = {
    path.parent.name: json.loads(path.read_text())
    for path in sorted((Path(__file__).parents[2] / "models").glob("*/card.json"))
}
GOLDEN = Path(__file__).parent / "golden"
TOLERANCE = 1e-5
REGENERATE = "write it: python -m app.checkpoints.golden models tests/backbones/golden [NAME ...]"


@pytest.fixture(params=CARDS)
def checkpoint(request: pytest.FixtureRequest, load_checkpoint: Callable[[str], Checkpoint]) -> Checkpoint:
    return load_checkpoint(request.param)


@pytest.fixture(params=[name for name, card in CARDS.items() if card["modality"] == "text"])
def padding_checkpoint(request: pytest.FixtureRequest, load_checkpoint: Callable[[str], Checkpoint]) -> Checkpoint:
    return load_checkpoint(request.param)


def assert_close(actual: Tensor, expected: Tensor) -> None:
    """Within 1e-5 of the largest number, or of 1."""
    scale = max(1.0, float(expected.abs().max()))
    assert actual.shape == expected.shape
    assert float((actual.double() - expected.double()).abs().max()) <= TOLERANCE * scale


def test_embeddings_are_the_golden_ones(checkpoint: Checkpoint) -> None:
    path = GOLDEN / f"{checkpoint.card.name}.safetensors"
    assert path.is_file(), REGENERATE
    with safe_open(path, "pt") as stored:
        assert stored.metadata()["checkpoint_sha256"] == checkpoint.sha256, REGENERATE
        golden = stored.get_tensor("embeddings")
    assert golden.dtype == torch.float64
    assert_close(checkpoint.backbone(probe_inputs(checkpoint.backbone)), golden)


def test_an_input_embeds_alone_as_in_a_batch(checkpoint: Checkpoint) -> None:
    inputs = probe_inputs(checkpoint.backbone)
    alone = torch.cat([checkpoint.backbone(row[None]) for row in inputs])
    assert_close(alone, checkpoint.backbone(inputs))


def test_the_order_of_a_batch_changes_nothing(checkpoint: Checkpoint) -> None:
    inputs = probe_inputs(checkpoint.backbone)
    order = torch.tensor([3, 0, 4, 2, 1])
    assert_close(checkpoint.backbone(inputs[order]), checkpoint.backbone(inputs)[order])


def test_padding_changes_nothing(padding_checkpoint: Checkpoint) -> None:
    backbone = padding_checkpoint.backbone
    assert backbone.pads
    inputs = probe_inputs(backbone)
    padded = torch.nn.functional.pad(inputs, (0, 100))
    assert_close(backbone(padded), backbone(inputs))
    bare = torch.cat([backbone(row[row != 0][None]) for row in inputs])
    assert_close(bare, backbone(inputs))


def test_a_row_of_padding_is_no_nan_and_harms_no_other_row(padding_checkpoint: Checkpoint) -> None:
    inputs = probe_inputs(padding_checkpoint.backbone)
    mixed = torch.cat([torch.zeros_like(inputs[:1]), inputs])
    embeddings = padding_checkpoint.backbone(mixed)
    assert embeddings.isfinite().all()
    assert_close(embeddings[1:], padding_checkpoint.backbone(inputs))


def test_packed_it_embeds_as_padded(padding_checkpoint: Checkpoint) -> None:
    backbone = padding_checkpoint.backbone
    assert backbone.packs
    inputs = probe_inputs(backbone)
    holed = inputs.clone()
    holed[:, 1::3] = 0
    empty = torch.zeros_like(inputs)
    for rows in (inputs, inputs[:1, :2], inputs[2:3], holed, torch.cat([empty[:2], holed, empty[:1], inputs])):
        places = rows.flatten().nonzero().squeeze(1)
        assert_close(backbone.packed(rows, places), backbone(rows))
    assert not backbone.packed(empty, torch.tensor([0])).any()


def test_dim_is_that_of_the_card(checkpoint: Checkpoint) -> None:
    inputs = probe_inputs(checkpoint.backbone)
    embeddings = checkpoint.backbone(inputs)
    assert checkpoint.backbone.dim == checkpoint.card.dim
    assert embeddings.shape == (len(inputs), checkpoint.card.dim or inputs.shape[1])
    assert embeddings.dtype == torch.float32


def test_no_inputs_give_no_embeddings(checkpoint: Checkpoint) -> None:
    inputs = probe_inputs(checkpoint.backbone)[:0]
    assert len(checkpoint.backbone(inputs)) == 0


def test_a_loaded_backbone_is_frozen(checkpoint: Checkpoint) -> None:
    assert not any(part.training for part in checkpoint.backbone.modules())
    assert not any(weight.requires_grad for weight in checkpoint.backbone.parameters())
    assert not checkpoint.backbone(probe_inputs(checkpoint.backbone)).requires_grad


def test_embedding_twice_gives_the_same_bits(checkpoint: Checkpoint) -> None:
    inputs = probe_inputs(checkpoint.backbone)
    before = {name: tensor.clone() for name, tensor in checkpoint.backbone.state_dict().items()}
    assert torch.equal(checkpoint.backbone(inputs), checkpoint.backbone(inputs))
    after = checkpoint.backbone.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_input_shape_is_that_of_an_example(checkpoint: Checkpoint) -> None:
    example = probe_inputs(checkpoint.backbone)[0]
    shape = checkpoint.backbone.input_shape
    assert len(shape) == example.ndim
    assert all(size is None or size == actual for size, actual in zip(shape, example.shape, strict=True))


def test_a_micro_batch_holds_an_example_at_least(checkpoint: Checkpoint) -> None:
    assert checkpoint.backbone.micro_batch_examples("cpu") >= 1
    assert checkpoint.backbone.micro_batch_examples("cuda") >= checkpoint.backbone.micro_batch_examples("cpu")


@pytest.mark.gpu
def test_a_gpu_embeds_as_the_golden_ones(checkpoint: Checkpoint) -> None:
    import copy

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    backbone = copy.deepcopy(checkpoint.backbone).cuda()
    with safe_open(GOLDEN / f"{checkpoint.card.name}.safetensors", "pt") as stored:
        golden = stored.get_tensor("embeddings")
    embeddings = backbone(probe_inputs(checkpoint.backbone).cuda()).cpu().double()
    # TF32 convolutions keep 10 bits of each factor.
    assert float(torch.nn.functional.cosine_similarity(embeddings, golden).min()) > 1 - 1e-3
