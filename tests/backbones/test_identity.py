"""The identity passes vectors on."""

import pytest
import torch

from app.backbones import build


@pytest.mark.parametrize("dim", [1, 7, 4096])
def test_vectors_of_any_size_come_back_as_they_are(dim: int) -> None:
    vectors = torch.randn(3, dim, generator=torch.Generator().manual_seed(dim))
    assert torch.equal(build("identity", {})(vectors), vectors)


def test_it_has_no_weights_and_no_size() -> None:
    backbone = build("identity", {})
    assert not backbone.state_dict()
    assert backbone.dim is None
    assert not backbone.pads
