"""A prediction makes the host wait for its device once, for the answer: what it does before asks for no number.

Torch's fake tensors stand in for those of an accelerator: they have a shape and a device and no numbers. So whatever
waits for a number fails, and whatever mixes tensors of two devices; and copies that the host waits for are counted.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from app.backbones import build as build_backbone
from app.checkpoints.golden import probe_inputs
from app.checkpoints.load import load_all
from app.config import Settings
from app.core.episode import Support
from app.engine.copies import to_device
from app.engine.executors.torch_executor import TorchExecutor
from app.engine.state_cache import Pin, StateCache, _Entry
from app.learners import build, learner_class, learner_names
from app.learners._base import EmbeddingLearner
from app.learners._together import adapt_together
from app.services.heads import input_probabilities, probabilities
from app.services.scoring import ScoreHead, score_together

THERE = torch.device("meta")
CHECKPOINTS = sorted(load_all(Settings().model_folders())[0])


class Apart(TorchDispatchMode):
    """Keeps real tensors on the CPU real, and notes what makes the host wait for the other device."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.to_host = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        there = any(isinstance(one, FakeTensor) for one in tensors)
        if not there and torch.device(kwargs.get("device") or "cpu").type == "cpu":
            with _disable_current_modes():
                return function(*args, **kwargs)
        found = function(*args, **kwargs)
        if function is torch.ops.aten._to_copy.default and args[0].device.type != found.device.type:
            self.to_host += found.device.type == "cpu"
            if not kwargs.get("non_blocking", False):
                self.waits.append(f"a copy to {found.device}")
        elif "index" in function.__name__ and tensors[0].device == THERE:
            self.waits += [f"{function} by rows on the CPU" for one in tensors[1:] if one.device.type == "cpu"]
        return found


@contextmanager
def apart() -> Iterator[Apart]:
    """In this block, what is moved to the other device, or made there, has no numbers."""
    with FakeTensorMode(allow_non_fake_inputs=True), Apart() as mode, torch.no_grad():
        yield mode


def there(module: nn.Module) -> nn.Module:
    """A copy of a module whose weights lie on the other device."""
    moved = copy.deepcopy(module)
    for part in moved.modules():
        for name, one in part._parameters.items():
            if one is not None:
                part._parameters[name] = nn.Parameter(one.detach().to(THERE), requires_grad=False)
        for name, one in part._buffers.items():
            if one is not None:
                part._buffers[name] = one.to(THERE)
    return moved


@pytest.fixture(autouse=True)
def no_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switched off where it is used, and unknown on a device that is none."""
    monkeypatch.setattr("torch.autocast", lambda *_, **how: nullcontext() if not how["enabled"] else pytest.fail("on"))


@pytest.fixture(scope="module")
def support() -> Support:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 256, (9, 1, 28, 28), generator=generator, dtype=torch.uint8)
    return Support(inputs, torch.arange(3).repeat_interleave(3), 3)


def test_what_waits_for_the_device_is_seen():
    with apart() as mode:
        one = torch.ones(3).to(THERE)
        assert mode.waits == ["a copy to meta"]
        with pytest.raises(DataDependentOutputException):
            bool((one > 0).all())
        with pytest.raises(Exception, match="same device"):
            one + torch.ones(3)
        mode.waits.clear()
        one[torch.tensor([0, 1])]
        assert mode.waits == ["aten.index.Tensor by rows on the CPU"]
        assert torch.ones(3).tolist() == [1, 1, 1]
        mode.waits.clear()
        to_device(torch.ones(3), THERE)
        one.to("cpu", non_blocking=True)
        assert mode.waits == []
        assert mode.to_host == 1


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_backbone_embeds_without_a_wait(name):
    (checkpoint,) = load_all(Settings().model_folders(), {name})[0].values()
    inputs = probe_inputs(checkpoint.backbone)
    with apart() as mode:
        executor = TorchExecutor(checkpoint.backbone, torch.device("cpu"))
        executor.backbone, executor.device = there(checkpoint.backbone), THERE
        mode.waits.clear()
        features = executor.embed([inputs, inputs[:2]])
        assert features.device == THERE
        assert len(features) == len(inputs) + 2
    assert mode.waits == []
    assert mode.to_host == 0


@pytest.mark.parametrize("name", learner_names())
def test_a_learner_scores_with_one_copy_to_the_host_and_waits_for_none(name, support):
    learner = build(name, build_backbone("conv4", {"filters": 8}).eval(), {}).eval()
    with torch.no_grad():
        state = learner.adapt(support)
        features = learner.backbone(support.inputs)
    with apart() as mode:
        moved = there(learner)
        held = {key: to_device(one, THERE) for key, one in state.items()}
        rows = to_device(features, THERE)
        mode.waits.clear()
        if isinstance(learner, EmbeddingLearner):
            found = probabilities(moved, held, rows)
        else:
            found = input_probabilities(moved, held, support.inputs, THERE)
        assert found.shape == (9, 3)
        assert found.device.type == "cpu"
    assert mode.waits == []
    assert mode.to_host == 1


@pytest.mark.parametrize("name", [one for one in learner_names() if issubclass(learner_class(one), EmbeddingLearner)])
def test_many_tasks_are_scored_with_one_copy_to_the_host_and_none_waited_for(name, support):
    learner = build(name, build_backbone("conv4", {"filters": 8}).eval(), {}).eval()
    with torch.no_grad():
        state, features = learner.adapt(support), learner.backbone(support.inputs)
    with apart() as mode:
        moved, rows = there(learner), to_device(features, THERE)
        cache, heads = StateCache(2**20), []
        for task in range(4):
            heads.append(ScoreHead(moved, Pin(cache, task, lambda: state)))
            heads[-1].entry._entry = _Entry()
            heads[-1].entry._entry.state = state
        mode.waits.clear()
        mode.to_host = 0
        found = score_together([*heads, heads[0]], [rows[:1], rows[:1], rows[:3], rows[:2], rows[2:4]])
        assert [one.shape for one in found] == [(1, 3), (1, 3), (3, 3), (2, 3), (2, 3)]
        assert {one.device.type for one in found} == {"cpu"}
    assert mode.waits == []
    assert mode.to_host == 1


@pytest.mark.parametrize("name", [one for one in learner_names() if issubclass(learner_class(one), EmbeddingLearner)])
def test_a_fit_stays_on_its_device_at_least_until_it_reads_a_number(name, support):
    learner = build(name, build_backbone("conv4", {"filters": 8}).eval(), {}).eval()
    with torch.no_grad():
        features = learner.backbone(support.inputs)
    with apart():
        moved, rows, labels = there(learner), to_device(features, THERE), to_device(support.labels, THERE)
        with suppress(DataDependentOutputException, DynamicOutputShapeException):
            state = moved.fit(rows, labels, support.way)
            assert {one.device.type for one in state.values()} == {THERE.type}


@pytest.mark.parametrize("name", ["maml", "metasgd", "protomaml"])
def test_adaptations_side_by_side_read_nothing_before_they_are_done(name, support):
    learner = build(name, build_backbone("conv4", {"filters": 8}).eval().requires_grad_(False), {"steps": 2}).eval()
    with apart() as mode:
        moved = there(learner)
        inputs = to_device(support.inputs, THERE)
        supports = [Support(inputs, support.labels, support.way) for _ in range(3)]
        mode.waits.clear()
        with pytest.raises(DataDependentOutputException):  # which of them have diverged
            adapt_together(moved, supports)
    assert mode.waits == []
