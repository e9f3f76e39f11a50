"""Which executor serves, and what happens where one cannot."""

import json
import logging
import sys
from typing import final

import pytest
import torch
from jaxtyping import Float, Shaped
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from app.backbones import build
from app.backbones._base import Backbone
from app.checkpoints.golden import probe_inputs
from app.checkpoints.load import Checkpoint, scan
from app.config import Settings, bundled_models
from app.core.episode import Features
from app.engine.executors._base import Executor
from app.engine.executors.check import (
    FEW,
    ROUNDS,
    TOLERANCE,
    EmbedsOtherwise,
    Measured,
    check,
    deviation,
    measure,
)
from app.engine.executors.choose import COMPILED, ExecutorName, Wish, choose, choose_all
from app.engine.executors.torch_executor import TorchExecutor

CPU = torch.device("cpu")
SHA256 = "ab" * 32


@pytest.fixture
def backbone():
    return build("conv4", {"filters": 8, "image_size": 16}).eval().requires_grad_(False)


@pytest.fixture
def chosen(backbone, tmp_path):
    """Chooses for the small backbone: `chosen("auto")`."""

    def made(name="auto", of=backbone):
        return choose(of, SHA256, CPU, Wish(name, tmp_path / "executors"))

    return made


def kept(tmp_path):
    (path,) = (tmp_path / "executors").glob("*.json")
    return path


def test_the_names_of_the_setting_are_the_executors():
    assert set(ExecutorName.__args__) == {"auto", "torch", *COMPILED}


@pytest.mark.parametrize("name", ["torch", *COMPILED])
def test_an_executor_that_is_named_serves_unmeasured(chosen, tmp_path, name):
    choice = chosen(name)
    assert choice.executor.name == name
    assert choice.example_ms == {}
    assert choice.version
    assert not list(tmp_path.rglob("*.json"))


def test_auto_measures_every_executor_alone_with_a_few_and_in_a_micro_batch(chosen, backbone, tmp_path):
    choice = chosen()
    stored = json.loads(kept(tmp_path).read_text())
    for clock in ("example_ms", "example_cpu_ms"):
        assert set(stored[clock]) == {"torch", *COMPILED}
        for times in stored[clock].values():
            assert set(times) == {"1", str(FEW), str(backbone.micro_batch_examples("cpu"))}
            assert min(times.values()) > 0
    assert stored["passed_over"] == {}
    measured = Measured(*(by_size(stored[clock]) for clock in ("example_ms", "example_cpu_ms")))
    assert choice.executor.name == measured.fastest_first()[0]
    assert choice.example_ms == measured.example_ms[choice.executor.name]


def by_size(stored):
    """As it was before it was written."""
    return {name: {int(size): spent for size, spent in times.items()} for name, times in stored.items()}


@pytest.mark.parametrize("fastest", ["torch", *COMPILED])
def test_a_later_start_keeps_the_choice_and_does_not_measure(chosen, backbone, tmp_path, fastest):
    chosen()
    times = {name: {"1": 2.0, "32": 2.0} for name in ("torch", *COMPILED)} | {fastest: {"1": 1.0, "32": 1.5}}
    kept(tmp_path).write_text(json.dumps({"example_ms": times, "example_cpu_ms": times, "passed_over": {}}))
    choice = chosen()
    assert choice.executor.name == fastest
    assert choice.example_ms == {1: 1.0, 32: 1.5}
    assert choice.executor.enough_examples == FEW, "more at a time would only make others wait"
    inputs = probe_inputs(backbone)
    assert deviation(choice.executor.embed([inputs]), TorchExecutor(backbone, CPU).embed([inputs])) <= TOLERANCE


OF_ABACUS = '{"example_ms": {"abacus": {"1": 1.0}}, "example_cpu_ms": {"abacus": {"1": 1.0}}, "passed_over": {}}'
OF_ONE_CLOCK = '{"example_ms": {"torch": {"1": 1.0}}, "example_cpu_ms": {}, "passed_over": {}}'


@pytest.mark.parametrize("content", ["", "{", "[]", OF_ABACUS, OF_ONE_CLOCK])
def test_a_choice_that_cannot_be_read_is_made_anew(chosen, tmp_path, content):
    chosen()
    kept(tmp_path).write_text(content)
    chosen()
    assert set(json.loads(kept(tmp_path).read_text())["example_ms"]) == {"torch", *COMPILED}


def test_another_number_of_threads_is_measured_on_its_own(chosen, tmp_path):
    threads = torch.get_num_threads()
    chosen()
    try:
        torch.set_num_threads(threads + 1)
        chosen()
    finally:
        torch.set_num_threads(threads)
    assert len(list((tmp_path / "executors").glob("*.json"))) == 2


def checkpoints(tiny_card, *seeds, filters=8):
    """Of one make, each with weights of its own."""
    found = {}
    for seed in seeds:
        torch.manual_seed(seed)
        made = build("conv4", {"filters": filters, "image_size": 16}).eval().requires_grad_(False)
        found[f"{filters}-{seed}"] = Checkpoint(tiny_card, made, f"{filters:032x}{seed:032x}", None)
    return found


def test_networks_of_one_make_are_measured_once_and_those_of_another_on_their_own(tmp_path):
    card = scan([bundled_models()])["tiny-conv4"].card
    every = checkpoints(card, 1, 2, 3) | checkpoints(card, 4, filters=4)
    wish = Wish("auto", tmp_path / "executors")
    choices = choose_all(every, CPU, wish)
    stored = {path.name[:64]: path.read_text() for path in wish.folder.glob("*.json")}
    assert set(stored) == {one.sha256 for one in every.values()}
    assert len(set(stored.values())) == 2
    for name, one in every.items():
        inputs = probe_inputs(one.backbone)
        own = TorchExecutor(one.backbone, CPU).embed([inputs])
        assert deviation(choices[name].executor.embed([inputs]), own) <= TOLERANCE
    again = choose_all(every, CPU, wish)
    assert {name: one.executor.name for name, one in again.items()} == {
        name: one.executor.name for name, one in choices.items()
    }
    assert {path.name[:64]: path.read_text() for path in wish.folder.glob("*.json")} == stored


@final
class Slow(Executor):
    """Is said to take fifty times as long."""

    name = "slow"

    def _forward(self, rows: Shaped[Tensor, "n ..."], places: Tensor | None = None) -> Features:
        return rows


@final
class Fast(Executor):
    """Answers at once."""

    name = "fast"

    def _forward(self, rows: Shaped[Tensor, "n ..."], places: Tensor | None = None) -> Features:
        return rows


def test_who_is_far_behind_is_measured_once_and_no_more(monkeypatch):
    backbone = build("identity", {})
    slow, fast = Slow(backbone, CPU), Fast(backbone, CPU)

    def embed_ms(executor: Executor, rows: Shaped[Tensor, "n ..."]) -> tuple[float, float]:
        executor.embed([rows])
        return (50.0, 50.0) if executor is slow else (1.0, 1.0)

    monkeypatch.setattr("app.engine.executors.check._embed_ms", embed_ms)
    monkeypatch.setattr("app.engine.executors.check.PATIENCE_S", 1000.0)
    found = measure([slow, fast], probe_inputs(backbone)).example_ms
    assert (slow.forwards, fast.forwards) == (3 * 2, 3 * ROUNDS)
    assert set(found["slow"]) == set(found["fast"]) == {1, FEW, backbone.micro_batch_examples("cpu")}


@pytest.mark.parametrize(
    ("measured", "enough"),
    [({}, None), ({1: 5.0, 8: 5.1, 32: 5.0}, FEW), ({1: 8.0, 8: 5.2, 32: 5.0}, FEW), ({1: 9.0, 8: 7.0, 32: 4.0}, 32)],
)
def test_a_batch_is_large_enough_where_an_example_is_nearly_as_fast_as_in_any(measured, enough):
    assert Measured({}, {"a": measured}).enough_examples("a") == enough
    assert Measured({}, {}).enough_examples("a") is None


def test_twice_as_fast_alone_is_worth_twice_as_fast_in_a_batch():
    times = {"a": {1: 8.0, 8: 2.0}, "b": {1: 4.0, 8: 3.0}, "c": {1: 2.0, 8: 9.0}}
    assert Measured(times, times).fastest_first() == ["b", "a", "c"]


def test_who_takes_more_of_the_cpu_for_the_same_seconds_comes_later():
    assert Measured({"a": {1: 4.0}, "b": {1: 5.0}}, {"a": {1: 8.0}, "b": {1: 5.0}}).fastest_first() == ["b", "a"]


@final
class Lopsided(Backbone):
    """Torch takes another way for one row than for many; an export knows only one of them."""

    modality = "vector"
    input_shape = (12,)
    dim = 12

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(12), requires_grad=False)

    def forward(self, inputs: Shaped[Tensor, "n ..."]) -> Float[Tensor, "n dim"]:
        return inputs * self.scale * (2.0 if len(inputs) == 1 else 1.0)


@final
class Unexportable(Backbone):
    """Uses what the exchange format does not know."""

    modality = "vector"
    input_shape = (12,)
    dim = 12

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(12), requires_grad=False)

    def forward(self, inputs: Shaped[Tensor, "n ..."]) -> Float[Tensor, "n dim"]:
        return torch.special.bessel_j0(inputs * self.scale)


@pytest.mark.parametrize("name", COMPILED)
def test_what_cannot_be_exported_is_served_by_torch_and_the_log_says_why(chosen, caplog, name):
    backbone = Unexportable()
    choice = chosen(name, backbone)
    assert choice.executor.name == "torch"
    assert f"the executor {name} is passed over" in caplog.text
    assert "bessel_j0" in caplog.text


def test_a_later_start_says_again_what_is_passed_over_and_why(chosen, caplog, tmp_path):
    for _ in range(2):
        caplog.clear()
        assert chosen("auto", Unexportable()).executor.name == "torch"
        for name in COMPILED:
            assert f"the executor {name} is passed over" in caplog.text
    assert set(json.loads(kept(tmp_path).read_text())["passed_over"]) == set(COMPILED)


@pytest.mark.parametrize("name", ["auto", *COMPILED])
def test_what_embeds_otherwise_is_served_by_torch(chosen, caplog, tmp_path, name, backbone):
    chosen("openvino")
    (path,) = tmp_path.rglob("*.safetensors")
    with safe_open(path, "pt") as stored:
        metadata = stored.metadata()
    save_file({key: tensor + 0.01 for key, tensor in load_file(path).items()}, path, metadata)
    assert chosen(name).executor.name == "torch"
    assert "EmbedsOtherwise" in caplog.text


def test_a_way_that_one_row_alone_takes_is_found_by_the_check():
    backbone = Lopsided()
    inputs = probe_inputs(backbone)
    executor = TorchExecutor(backbone, CPU)
    with pytest.raises(EmbedsOtherwise):
        check(executor, inputs, executor.embed([inputs]))


@pytest.mark.parametrize("wrong", [1 + 2 * TOLERANCE, float("nan"), -1.0])
def test_a_deviation_over_the_tolerance_is_refused(backbone, wrong):
    inputs = probe_inputs(backbone)
    executor = TorchExecutor(backbone, CPU)
    right = executor.embed([inputs])
    check(executor, inputs, right)
    with pytest.raises(EmbedsOtherwise):
        check(executor, inputs, right * wrong)
    with pytest.raises(EmbedsOtherwise):
        check(executor, inputs, right[:, 1:])


def test_a_backbone_without_weights_keeps_to_torch(chosen, tmp_path):
    assert chosen("auto", build("identity", {})).executor.name == "torch"
    assert chosen("openvino", build("identity", {})).executor.name == "torch"
    assert not list(tmp_path.iterdir())


def test_where_nothing_can_be_written_torch_serves(chosen, caplog, tmp_path):
    (tmp_path / "executors").write_text("a file where the folder should be")
    assert chosen().executor.name == "torch"
    assert chosen("onnxruntime").executor.name == "torch"
    assert "is passed over" in caplog.text


@pytest.fixture
def nothing_installed(monkeypatch):
    """As on a machine without the extra."""
    for package in COMPILED:
        monkeypatch.setitem(sys.modules, package, None)


@pytest.mark.usefixtures("nothing_installed")
def test_without_the_extra_torch_serves_and_nothing_is_written_or_logged(chosen, caplog, tmp_path):
    caplog.set_level(logging.INFO)
    assert chosen().executor.name == "torch"
    assert not list(tmp_path.iterdir())
    assert caplog.text == ""


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize("name", COMPILED)
def test_an_executor_that_is_not_installed_is_a_clear_error(chosen, name):
    with pytest.raises(ValidationError, match=r"pip install 'imprint\[fast\]'"):
        Settings(executor=name)
    with pytest.raises(ValueError, match=name):
        chosen(name)


def test_an_executor_for_cpus_is_refused_on_cuda(backbone, tmp_path):
    with pytest.raises(ValueError, match="take auto or torch"):
        choose(backbone, SHA256, torch.device("cuda"), Wish("openvino", tmp_path))
