"""The same on every device: answers, memory of the states, too little memory, no waits. CUDA where there is one.

Each test runs on the CPU too, so that what is written here for CUDA is code that has run.
"""

import asyncio
import gc
import threading
from functools import partial

import pytest
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from app.backbones._base import Backbone
from app.checkpoints.golden import probe_inputs
from app.checkpoints.load import Checkpoint, load_all
from app.config import Settings
from app.core.episode import Support
from app.engine.clock import CudaClock, clock_of
from app.engine.executors.torch_executor import TorchExecutor
from app.engine.scheduler import Engine
from app.engine.state_cache import StateCache
from app.engine.work import Work
from app.learners._base import EmbeddingLearner
from app.learners._together import adapt_together, judge_together
from app.services.builder import LearnerBuilder
from app.services.catalogue import Candidate
from app.services.heads import AdaptHead, AdaptWeightsHead, input_probabilities, probabilities
from app.services.scoring import ScoreHead

CUDA = pytest.param(
    "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
)
on_each_device = pytest.mark.parametrize("name", ["cpu", CUDA])

ALL_OF = "glyph-conv4-protonet"

TOLERANCE = {"cpu": 1e-5, "cuda": 0.02}
"""How far a probability may lie from the CPU's. Where no executor was made before, CUDA's convolutions keep 10 bits of
each factor (TF32)."""

MIB = 2**20


def _checkpoint(checkpoint: str) -> Checkpoint:
    return load_all(Settings().model_folders(), {checkpoint})[0][checkpoint]


def _support(backbone: Backbone) -> Support:
    """Three labels of two examples each, on the CPU, that differ as far as made-up inputs can."""
    inputs = probe_inputs(backbone)
    chosen = torch.arange(6) % len(inputs)
    return Support(inputs[chosen], torch.arange(6) // 2, 3)


def _answers(checkpoint: str, learner: str, device: torch.device) -> Float[Tensor, "q way"]:
    """As the device thread gets them: probabilities of the support set's own inputs, by a state that was stored."""
    loaded = _checkpoint(checkpoint)
    executor = TorchExecutor(loaded.backbone, device)
    settings = dict(loaded.card.learners[learner])
    if "steps" in settings or not isinstance(_built(loaded, learner, settings, device), EmbeddingLearner):
        settings["steps"] = 2
    built, support = _built(loaded, learner, settings, device), _support(loaded.backbone)
    candidate = Candidate(learner, settings, built, "")
    with torch.no_grad():
        if isinstance(built, EmbeddingLearner):
            features = executor.embed([support.inputs])
            adapted = AdaptHead([candidate], support.labels, support.way)(features)
            found = probabilities(built, _moved(_known(device, adapted.state), device), features)
        else:
            none = executor.no_features(support.inputs)
            adapted = AdaptWeightsHead(candidate, support.inputs, support.labels, support.way)(none)
            state = _moved(_known(device, adapted.state), device)
            found = input_probabilities(built, state, support.inputs, device)
        return _known(device, {"": found})[""]


def _built(loaded: Checkpoint, learner: str, settings: dict[str, object], device: torch.device):
    return LearnerBuilder({loaded.card.name: loaded}, device).build(loaded.card.name, learner, settings).learner


def _known(device: torch.device, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, once what was asked of the device is there: a head's copies may still be under way."""
    clock = clock_of(device)
    clock.when_known(clock.mark(), lambda _: None)
    clock.settle()
    assert all(one.device.type == "cpu" for one in tensors.values())
    return tensors


def _moved(state: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {key: one.to(device) for key, one in state.items()}


def _cases() -> list[tuple[str, str]]:
    """Every checkpoint with the learner that it prefers, and one of them with all its learners."""
    cards = {name: one.card for name, one in load_all(Settings().model_folders())[0].items()}
    first = [(name, next(iter(card.learners))) for name, card in cards.items()]
    return list(dict.fromkeys([*first, *((ALL_OF, learner) for learner in cards[ALL_OF].learners)]))


@on_each_device
@pytest.mark.parametrize(("checkpoint", "learner"), _cases(), ids=str)
def test_a_learner_answers_as_on_the_cpu(name, checkpoint, learner):
    there = _answers(checkpoint, learner, torch.device(name))
    here = _answers(checkpoint, learner, torch.device("cpu"))
    assert there.isfinite().all()
    torch.testing.assert_close(there, here, rtol=0, atol=TOLERANCE[name])


@on_each_device
def test_adaptations_side_by_side_are_those_of_the_cpu_one_by_one(name):
    device, loaded = torch.device(name), _checkpoint("glyph-conv4-maml")
    alone = _built(loaded, "maml", {"steps": 3}, torch.device("cpu"))
    support = _support(loaded.backbone)
    supports = [Support(support.inputs.flip(turn), support.labels, 3) for turn in ((2,), (3,), (2, 3))]
    with torch.no_grad():
        expected = [alone.logits(alone.adapt(one), one.inputs).softmax(1) for one in supports]
        moved = _checkpoint("glyph-conv4-maml")
        moved.backbone.to(device)
        learner = _built(moved, "maml", {"steps": 3}, device)
        there = [Support(one.inputs.to(device), one.labels, 3) for one in supports]
        states = adapt_together(learner, there)
        for state, one, wanted in zip(states, there, expected, strict=True):
            found = learner.logits(state, one.inputs).softmax(1).cpu()
            torch.testing.assert_close(found, wanted, rtol=0, atol=max(1e-4, TOLERANCE[name]))
        assert None not in judge_together(learner, there)


@on_each_device
def test_the_states_on_a_device_never_take_more_than_the_budget(name):
    device, budget, size = torch.device(name), 10 * MIB, MIB
    cache = StateCache(budget, kind=name)
    if name == "cuda":
        gc.collect()  # what other tests left behind must not go meanwhile
        torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated() if name == "cuda" else 0

    async def scene() -> list[int]:
        most = []
        for key in range(40):
            async with cache.pinned(key, lambda: {"w": torch.ones(size // 4)}) as entry:
                assert entry.state(device)["w"].device.type == name
                most.append(torch.cuda.memory_allocated() - before if name == "cuda" else cache.size_bytes)
        return most

    most = asyncio.run(scene())
    assert max(most) <= budget
    assert max(most) >= budget - size  # and they are kept there
    if name == "cuda":
        for key in range(40):
            cache.discard(key)
        assert torch.cuda.memory_allocated() == before


class Hungry(Backbone):
    """Each row takes 16 MiB on its way. On a CPU, whose memory cannot be bounded, 10 rows at a time are the most."""

    modality = "vector"
    input_shape = (2,)
    dim = 1

    def forward(self, inputs: Shaped[Tensor, "n ..."]) -> Float[Tensor, "n dim"]:
        if inputs.device.type == "cpu":
            if len(inputs) > 10:
                raise torch.OutOfMemoryError("out of memory")
            return inputs[:, :1] * 2
        wide = inputs[:, :1].expand(-1, 4 * MIB).contiguous()
        return wide[:, :1] * 2


@pytest.fixture
def little_memory(name):
    """No more than 170 MiB beside what is there."""
    if name == "cpu":
        yield
        return
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 170 * MIB) / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


@on_each_device
def test_too_little_memory_is_met_by_halving(name, little_memory):
    device = torch.device(name)
    rows = torch.arange(128.0).reshape(64, 2)
    executor = TorchExecutor(Hungry(), device)
    found = executor.embed([rows])
    assert torch.equal(found.cpu(), rows[:, :1] * 2)
    # 64, 32 and 16 rows fail, those of 8 do not.
    assert executor.forwards > 8
    before = executor.forwards
    executor.embed([rows[:4]])
    assert executor.forwards == before + 1


@pytest.fixture
def no_waits(name):
    """What waits for CUDA fails; waiting for an event, as the clock does once a batch, is not seen by it."""
    if name == "cpu":
        yield lambda: None
        return
    yield partial(torch.cuda.set_sync_debug_mode, "error")
    torch.cuda.set_sync_debug_mode("default")


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


@on_each_device
def test_a_batch_of_many_tasks_waits_for_its_device_once(name, no_waits, monkeypatch):
    device, loaded, waits = torch.device(name), _checkpoint("glyph-conv4-protonet"), []
    settle = CudaClock.settle

    def counted(clock: CudaClock) -> None:
        waits.extend(clock._waiting[-1:])
        settle(clock)

    monkeypatch.setattr(CudaClock, "settle", counted)
    engine = Engine({"glyph": loaded.backbone}, device=device)
    engine.start()
    support = _support(loaded.backbone)
    learner = _built(loaded, "protonet", {}, device)
    with torch.no_grad():
        state = {
            key: one.cpu()
            for key, one in learner.adapt(Support(support.inputs.to(device), support.labels.to(device), 3)).items()
        }

    async def ask(task: int) -> Tensor:
        async with engine.states.pinned(task, lambda: {key: one.clone() for key, one in state.items()}) as entry:
            head = ScoreHead(learner, entry)
            work = Work("glyph", support.inputs[:2], head, task=str(task), together=head.together())
            return (await engine.run(work)).value

    async def scene() -> list[Tensor]:
        await ask(-1)  # CUDA's libraries are loaded, memory is pinned
        gate = threading.Event()
        held = asyncio.ensure_future(engine.run(Work("glyph", torch.empty(0), lambda _: gate.wait(20))))
        await until(lambda: engine.health().last_beat_age_s > 0)  # the thread has it
        no_waits()
        asked = [asyncio.ensure_future(ask(task)) for task in range(12)]
        await until(lambda: engine.health().queue_examples == 24)  # all wait, so that they share a batch
        gate.set()
        await held
        return list(await asyncio.gather(*asked))

    try:
        found = asyncio.run(scene())
    finally:
        engine.stop(5.0)
    assert len(found) == 12
    # Of the same inputs, but in batches of other sizes.
    for one in found:
        torch.testing.assert_close(one, found[0], rtol=0, atol=TOLERANCE[name])
        assert one.device.type == "cpu"
    assert engine.health().restarts == 0
    # On CUDA once a batch: the first, the one that was held, and the twelve in one.
    assert len(waits) == (3 if name == "cuda" else 0)
