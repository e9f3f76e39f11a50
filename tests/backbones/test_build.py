"""Backbones are found by file name and built from a card's settings."""

import pytest
import torch

from app.backbones import architectures, build
from app.core.errors import InvalidSetting, UnknownName


def test_architectures_are_the_files_without_an_underscore() -> None:
    assert {"conv4", "efficientnet_lite0", "identity", "minilm"} <= set(architectures())
    assert not any(name.startswith("_") for name in architectures())
    assert list(architectures()) == sorted(architectures())


def test_settings_shape_the_network() -> None:
    backbone = build("minilm", {"layers": 1, "dim": 8, "heads": 2, "hidden": 16, "vocabulary": 50, "positions": 16})
    assert backbone(torch.tensor([[5, 6, 7]])).shape == (1, 8)


@pytest.mark.parametrize("name", ["resnet9000", "_base", "", "os"])
def test_an_unknown_architecture_is_refused(name: str) -> None:
    with pytest.raises(UnknownName, match="architecture"):
        build(name, {})


@pytest.mark.parametrize("settings", [{"depth": 3}, {"layers": "6"}, {"layers": True}, {"layers": 6.0}])
def test_a_setting_that_is_unknown_or_of_another_type_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(InvalidSetting) as caught:
        build("minilm", settings)
    assert caught.value.faults[0].pointer == f"/architecture_settings/{next(iter(settings))}"


def test_missing_and_unknown_weights_are_refused() -> None:
    backbone = build("identity", {})
    with pytest.raises(RuntimeError, match="surplus"):
        backbone.load_weights({"surplus": torch.zeros(1)})
