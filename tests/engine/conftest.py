"""A backbone that waits at a gate, and engines that are stopped when the test ends."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from threading import Event
from typing import Any, final

import pytest
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from app.backbones._base import Backbone
from app.core.errors import Invalid
from app.engine.observer import BatchReport
from app.engine.scheduler import Engine
from app.engine.work import EngineSettings, Outcome, Work

PATIENCE_S = 20.0


@final
class GatedBackbone(Backbone):
    """Doubles vectors, once `gate` is open. A row of `poison` raises, more than `room` rows are out of memory."""

    modality = "vector"
    input_shape = (None,)
    dim = None

    def __init__(self) -> None:
        super().__init__()
        self.gate = Event()
        self.gate.set()
        self.entered = Event()
        self.batches: list[list[float]] = []
        self.poison: dict[float, BaseException] = {}
        self.room = 1_000_000

    def forward(self, inputs: Shaped[Tensor, "n ..."]) -> Float[Tensor, "n dim"]:
        self.entered.set()
        if not self.gate.wait(PATIENCE_S):
            raise RuntimeError("nobody opened the gate")
        firsts = inputs[:, 0].tolist()
        self.batches.append(firsts)
        if len(firsts) > self.room:
            raise torch.OutOfMemoryError("out of memory")
        for first in firsts:
            if first in self.poison:
                raise self.poison[first]
        return inputs * 2.0

    @property
    def rows(self) -> list[float]:
        """First numbers of all rows computed, in order."""
        return [first for batch in self.batches for first in batch]


@final
class TextBackbone(Backbone):
    """A mean over the embeddings of the tokens that are not padding, through a non-linear layer."""

    modality = "text"
    input_shape = (None,)
    dim = 8
    pads = True

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 8)
        self.layer = nn.Linear(8, 8)
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, inputs: Shaped[Tensor, "n ..."]) -> Float[Tensor, "n dim"]:
        self.shapes.append(tuple(inputs.shape))
        mask = (inputs != 0).unsqueeze(-1)
        total = (self.layer(self.table(inputs)).tanh() * mask).sum(1)
        return total / mask.sum(1).clamp(min=1)


@final
class Recorder:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.batches: list[BatchReport] = []
        self.works: list[str] = []
        self.heads: list[str] = []
        self.cache: list[tuple[str, int]] = []
        self.restarts: list[str] = []
        self.at_restart: Callable[[], object] = lambda: None
        self.seen_at_restart: list[object] = []

    def on_batch(self, report: BatchReport) -> None:
        self.batches.append(report)

    def on_heads(self, backbone: str, seconds: float) -> None:
        assert seconds >= 0
        self.heads.append(backbone)

    def on_work(self, backbone: str, queue_s: float, device_s: float) -> None:
        assert queue_s >= 0 <= device_s
        self.works.append(backbone)

    def on_cache(self, event: str, size_bytes: int) -> None:
        self.cache.append((event, size_bytes))

    def on_restart(self, reason: str) -> None:
        self.restarts.append(reason)
        self.seen_at_restart.append(self.at_restart())


@final
class Bench:
    """An engine over gated backbones, and short ways to ask it."""

    def __init__(self, engine: Engine, backbones: dict[str, GatedBackbone], recorder: Recorder) -> None:
        self.engine = engine
        self.backbones = backbones
        self.backbone = backbones["a"]
        self.recorder = recorder

    def work(
        self,
        *firsts: float,
        head: Callable[[Tensor], Any] = lambda features: features[:, 0].tolist(),
        deadline_s: float | None = None,
        backbone: str = "a",
    ) -> Work[Any]:
        rows = [[first, 0.0, 0.0] for first in firsts]
        inputs = torch.tensor(rows) if rows else torch.empty(0)
        return Work(backbone=backbone, inputs=inputs, head=head, deadline_s=deadline_s)

    async def queue(self, *works: Work[Any]) -> "list[asyncio.Task[Outcome[Any]]]":
        """Hand works over, in this order; on return all are queued."""
        tasks = [asyncio.create_task(self.engine.run(work)) for work in works]
        await asyncio.sleep(0)
        return tasks

    async def occupy(self, backbone: str = "a") -> "asyncio.Task[Outcome[Any]]":
        """Close the gate and let one work stand before it, so that what follows queues up."""
        self.backbones[backbone].gate.clear()
        self.backbones[backbone].entered.clear()
        (task,) = await self.queue(self.work(-1.0, backbone=backbone))
        assert await asyncio.to_thread(self.backbones[backbone].entered.wait, PATIENCE_S)
        return task

    @staticmethod
    def until(condition: Callable[[], bool]) -> None:
        """Blocks until it holds; call it in a thread."""
        end_s = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < end_s
            time.sleep(0.001)

    def open(self) -> None:
        for backbone in self.backbones.values():
            backbone.gate.set()


@pytest.fixture
def bench() -> Iterator[Callable[..., Bench]]:
    """Makes running engines: `bench(batch_examples=8)`."""
    made: list[Bench] = []

    def make(on_lost: Callable[[], None] = lambda: None, **settings: Any) -> Bench:
        gated = {"a": GatedBackbone(), "b": GatedBackbone()}
        backbones: dict[str, Backbone] = {**gated, "text": TextBackbone()}
        recorder = Recorder()
        engine = Engine(
            backbones,
            device=torch.device("cpu"),
            settings=EngineSettings(**settings),
            observer=recorder,
            on_lost=on_lost,
        )
        engine.start()
        made.append(Bench(engine, gated, recorder))
        return made[-1]

    yield make
    for one in made:
        one.open()
        one.engine.stop(PATIENCE_S)


@pytest.fixture
def play() -> Callable[[Awaitable[Any]], Any]:
    """Runs a scene on an event loop of its own; a scene that hangs fails."""

    def run(scene: Awaitable[Any]) -> Any:
        async def limited() -> Any:
            async with asyncio.timeout(PATIENCE_S * 2):
                return await scene

        return asyncio.run(limited())

    return run


@pytest.fixture
def bad_input() -> type[Invalid]:
    """An error with a name."""

    class BadInput(Invalid):
        code = "bad-input"

    return BadInput


@pytest.fixture
def text_backbone() -> type[Backbone]:
    """The class of a small backbone that pads, and notes the shapes it sees."""
    return TextBackbone
