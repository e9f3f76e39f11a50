"""Texts packed into forwards without padding: each embeds as it does alone, in the plain way."""

from typing import final

import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from app.backbones import build
from app.backbones._base import Backbone
from app.checkpoints.golden import probe_inputs
from app.core.episode import Features
from app.engine.errors import DeviceMemoryFull
from app.engine.executors._base import Executor
from app.engine.executors._rows import places_of
from app.engine.executors.check import TOLERANCE, deviation
from app.engine.executors.choose import COMPILED
from app.engine.executors.export import exported
from app.engine.executors.torch_executor import TorchExecutor

CPU = torch.device("cpu")
MIXED = {
    "of mixed lengths": (5, 24, 11, 9, 16, 7, 12),
    "of one token": (1, 1, 1),
    "one token beside the longest": (512, 1, 2),
    "the longest alone": (512,),
    "equally long": (9,) * 5,
    "many": (3, 1, 2, 7) * 25,
    "a long one among short": (200, *range(2, 24)),
}

every_executor = pytest.mark.parametrize("executor", ["torch", *COMPILED])


def alone(backbone, parts):
    """Each text in a forward of its own, unpadded and unpacked, by torch."""
    with torch.no_grad():
        return torch.cat([backbone(part) for part in parts])


@every_executor
@pytest.mark.parametrize("lengths", MIXED.values(), ids=MIXED)
def test_packed_texts_embed_as_each_does_alone_in_the_plain_way(make, draw, subjects, executor, lengths):
    parts = draw("text", *lengths)
    features = make(executor, "text").embed(parts)
    assert deviation(features, alone(subjects["text"].backbone, parts)) <= TOLERANCE


@every_executor
def test_padding_before_within_and_instead_of_a_text_changes_nothing(make, draw, subjects, executor):
    backbone = subjects["text"].backbone
    (text,) = draw("text", 9)
    holed = torch.cat([text[:, :4], torch.zeros(1, 3, dtype=torch.int64), text[:, 4:]], dim=1)
    late = torch.nn.functional.pad(text, (6, 0))
    empty = torch.zeros(1, 40, dtype=torch.int64)
    parts = [empty, holed, text, empty[:, :1], late, torch.nn.functional.pad(text, (0, 30))]
    features = make(executor, "text").embed(parts)
    assert deviation(features, alone(backbone, parts)) <= TOLERANCE
    assert make(executor, "text").embed([empty]).abs().max() == 0


@every_executor
def test_what_lies_beside_a_text_does_not_reach_it(make, draw, executor):
    one = make(executor, "text")
    (text,) = draw("text", 11)
    beside = [one.embed([text, *draw("text", *lengths, seed=seed)])[:1] for seed, lengths in enumerate(MIXED.values())]
    for features in beside:
        assert deviation(features, one.embed([text])) <= TOLERANCE


@every_executor
def test_sixteen_short_texts_of_mixed_lengths_are_one_forward(make, draw, executor):
    one = make(executor, "text")
    one.embed(draw("text", 5, 7, 7, 8, 8, 9, 10, 10, 11, 11, 12, 13, 15, 17, 19, 24))
    assert one.forwards == 1


@every_executor
def test_a_long_text_does_not_share_the_attention_of_short_ones(make, draw, executor):
    one = make(executor, "text")
    one.embed(draw("text", *[8] * 15, 256))
    assert one.forwards == 2


@every_executor
def test_more_tokens_than_positions_are_an_error(make, draw, executor):
    one = make(executor, "text")
    one.embed(draw("text", 4))
    with pytest.raises(ValueError, match="513 positions is longer than 512"):
        one.embed(draw("text", 513))


def test_an_export_takes_the_places_of_what_packs_and_is_held_to_the_plain_forward(tmp_path):
    text = build("minilm", {"layers": 1, "dim": 8, "heads": 2, "hidden": 16}).eval()
    image = build("conv4", {"filters": 8, "image_size": 16}).eval()
    for backbone, names in ((text, ["inputs", "places"]), (image, ["inputs"])):
        export = exported(backbone, "ab" * 32, tmp_path / str(len(names)))
        assert [one.name for one in onnx.load(export.path).graph.input] == names
        with torch.no_grad():
            assert torch.equal(export.reference, backbone(probe_inputs(backbone)))
        assert not any(part.training for part in backbone.modules())


@final
class Recording(Backbone):
    """Sums tokens, and remembers by which way it was asked and what lay there."""

    modality = "text"
    input_shape = (None,)
    dim = 1
    pads = True
    packs = True

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, int]] = []

    def forward(self, inputs: Shaped[Tensor, "n ..."]) -> Float[Tensor, "n dim"]:
        self.asked.append(("forward", inputs.numel()))
        return inputs.sum(1, keepdim=True).float()

    def packed(self, inputs: Int64[Tensor, "n tokens"], places: Int64[Tensor, " m"]) -> Float[Tensor, "n dim"]:
        self.asked.append(("packed", len(places)))
        return inputs.sum(1, keepdim=True).float()


def test_torch_computes_the_tokens_of_mixed_texts_and_packs_none_that_have_no_padding(draw):
    backbone = Recording()
    one = TorchExecutor(backbone, CPU)
    one.embed(draw("text", 3, 9, 4))
    one.embed(draw("text", 9))
    one.embed(draw("text", 6, 6))
    assert backbone.asked == [("packed", 16), ("forward", 9), ("forward", 12)]


def test_texts_are_packed_on_a_cpu_and_padded_elsewhere_and_images_never_packed(draw):
    backbone = Recording()
    one = TorchExecutor(backbone, CPU)
    assert one.packs
    one.device = torch.device("meta")
    assert not one.packs
    one.embed(draw("text", 3, 9, 4))
    assert backbone.asked == [("forward", 27)]
    assert not TorchExecutor(build("conv4", {"filters": 8, "image_size": 16}), CPU).packs


@final
class Scarce(Executor):
    """Has memory for `room` texts at once."""

    name = "scarce"

    def __init__(self, backbone: Backbone, room: int) -> None:
        super().__init__(backbone, CPU)
        self.backbone, self.room = backbone, room
        self.seen: list[tuple[int, int]] = []

    def _forward(self, rows: Shaped[Tensor, "n ..."], places: Int64[Tensor, " m"] | None = None) -> Features:
        assert places is not None
        self.seen.append((len(rows), len(places)))
        if len(rows) > self.room:
            raise MemoryError
        return self.backbone.packed(rows, places)


def test_packed_texts_are_halved_where_memory_is_short_and_keep_their_order(draw):
    backbone = build("minilm", {"layers": 1, "dim": 8, "heads": 2, "hidden": 16}).eval()
    one = Scarce(backbone, 3)
    parts = draw("text", 5, 9, 3, 12, 7, 4, 11, 8)
    assert deviation(one.embed(parts), alone(backbone, parts)) <= TOLERANCE
    assert one.seen == [(8, 59), (4, 19), (2, 7), (2, 12), (4, 40), (2, 17), (2, 23)]
    one.room = 0
    with pytest.raises(DeviceMemoryFull):
        one.embed(parts)


@given(st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=1, max_size=6))
def test_places_are_those_of_all_tokens_in_order(rows: list[list[int]]) -> None:
    flat = [token for row in rows for token in row]
    assert places_of(torch.tensor(rows)).tolist() == ([at for at, token in enumerate(flat) if token] or [0])
