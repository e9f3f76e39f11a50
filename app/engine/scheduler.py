"""The engine: asyncio on one side, the device thread on the other, a supervisor beside it."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from threading import Event, Thread
from typing import Any, TypeVar, final

import torch

from app.backbones._base import Backbone
from app.core.errors import DeadlinePassed, UnknownName
from app.engine.budget import Budgets
from app.engine.device import DeviceThread
from app.engine.errors import Draining, EngineDown
from app.engine.executors._base import Executor
from app.engine.executors.torch_executor import TorchExecutor
from app.engine.mailbox import Mailbox
from app.engine.observer import EngineObserver, NullObserver
from app.engine.pending import Pending, batch_key
from app.engine.queue import WorkQueue
from app.engine.state_cache import StateCache
from app.engine.work import EngineSettings, Health, Outcome, Work

T = TypeVar("T")

_logger = logging.getLogger(__name__)

BATCH_EXAMPLES = {"cpu": 64, "cuda": 512}
TICK_S = 0.5
"""How often the supervisor looks for a hang and for passed deadlines; a death wakes it at once."""

HANGS_IN_A_ROW = 3
"""So many threads one after the other that hung in their first batch, and the device counts as lost."""


@final
class Engine:
    """Runs works on one device. `start` and `stop` it once; `run` from one event loop or several.

    A request is always answered: when the device thread dies or hangs, all that wait get `EngineDown`
    and a new thread takes over. Where that cannot help, as the device itself is lost to this process, `on_lost` is
    called once, on the supervisor's thread, and new works get `Draining`: end the process and start another.
    """

    def __init__(
        self,
        backbones: Mapping[str, Backbone],
        *,
        device: torch.device,
        settings: EngineSettings | None = None,
        observer: EngineObserver | None = None,
        executors: Mapping[str, Executor] | None = None,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self.device = device
        self._on_lost = on_lost
        self.settings = settings or EngineSettings()
        self._backbones = dict(backbones)
        self._observer: EngineObserver = observer or NullObserver()
        self.states = StateCache(self.settings.state_cache_bytes, self._observer, device.type)
        batch_examples = self.settings.batch_examples or BATCH_EXAMPLES.get(device.type, BATCH_EXAMPLES["cuda"])
        self._executors: dict[str, Executor] = dict(executors or {})
        enough = {name: one.enough_examples for name, one in self._executors.items() if one.enough_examples}
        self._queue = WorkQueue(self.settings.queue_examples, Budgets(batch_examples, enough))
        self._thread: DeviceThread | None = None
        self._supervisor = Thread(target=self._supervise, name="imprint-supervisor", daemon=True)
        self._wake = Event()
        self._stopped = Event()
        self._down = "The engine has not been started."
        self._restarts = 0
        self._hangs_in_a_row = 0
        self._mailbox: Mailbox | None = None

    def start(self) -> None:
        """Run backbones without an executor by torch; begin to take work. Raises `RuntimeError` the second time."""
        if self._thread is not None:
            raise RuntimeError("an engine starts once")
        # The device thread does not run yet, so the device still has one owner.
        for name in set(self._backbones) - set(self._executors):
            backbone = self._backbones[name]
            self._executors[name] = TorchExecutor(backbone, self.device, self.settings.micro_batch_tokens)
        thread = self._new_thread()
        self._queue.hand_over(thread)
        self._thread = thread
        self._down = ""
        thread.start()
        self._supervisor.start()

    def stop(self, drain_timeout_s: float) -> None:
        """Refuse new works, finish the queued ones, end. What is left after the timeout fails with `Draining`.

        Blocks; may be called twice, and before `start`.
        """
        self._queue.close()
        if self._thread is None:
            return
        self._supervisor.join(drain_timeout_s)
        self._stopped.set()
        self._wake.set()
        self._thread.retired = True
        for pending in self._queue.hand_over(None):
            pending.fail(Draining("The server shut down before the request was computed.", retry_after_s=1.0))
        self._supervisor.join()

    async def run(self, work: Work[T]) -> Outcome[T]:
        """Compute a work. A caller that is cancelled takes back what is not computed yet.

        Raises: `Busy` when the queue is full, `Draining` after `stop`, `EngineDown` when the device
        thread is lost, `DeadlinePassed`, `DeviceMemoryFull`, `EngineFailure`, `UnknownName` for the
        backbone, `ValueError` for inputs of a wrong shape, and the head's own `ImprintError`.
        """
        backbone = self._backbones.get(work.backbone)
        if backbone is None:
            raise UnknownName(kind="backbone", name=work.backbone, known=list(self._backbones), pointer="/backbone")
        if self._thread is None:
            raise EngineDown(self._down, retry_after_s=1.0)
        pending = self._pending(work, backbone)
        if pending.expired(pending.queued_at_s):
            raise DeadlinePassed("The deadline passed before the request reached the device.")
        self._queue.put(pending)
        pending.mailbox.ring(self._queue.ring)
        try:
            outcome: Outcome[T] = await pending.future
        except asyncio.CancelledError:
            self._queue.drop(pending)
            raise
        return outcome

    def health(self) -> Health:
        """How the engine is now; cheap."""
        silent_s = self._thread.silent_s(time.monotonic()) if self._thread else 0.0
        reason = self._down
        if self._queue.closed:
            reason = reason or "The engine is shutting down."
        elif silent_s > self.settings.hang_timeout_s:
            reason = self._hang(silent_s)
        return Health(not reason, reason, self._queue.examples, self._restarts, silent_s)

    def _pending(self, work: Work[Any], backbone: Backbone) -> Pending:
        loop = asyncio.get_running_loop()
        mailbox = self._mailbox
        if mailbox is None or mailbox.loop is not loop:
            mailbox = self._mailbox = Mailbox(loop)
        return Pending(work, batch_key(work, backbone), mailbox, loop.create_future())

    def _new_thread(self) -> DeviceThread:
        return DeviceThread(self._queue, self._executors, self._observer, self._wake.set)

    def _supervise(self) -> None:
        tick_s = min(TICK_S, self.settings.hang_timeout_s / 4)
        while not self._stopped.is_set():
            self._wake.wait(tick_s)
            self._wake.clear()
            thread = self._thread
            if thread is None or thread.finished or self._stopped.is_set():
                return
            silent_s = thread.silent_s(time.monotonic())
            if thread.ended:
                self._replace(thread, "The device thread died.", lost=thread.lost)
            elif silent_s > self.settings.hang_timeout_s:
                self._hangs_in_a_row = 1 if thread.batches else self._hangs_in_a_row + 1
                self._renew()
                self._replace(thread, self._hang(silent_s), lost=self._hangs_in_a_row >= HANGS_IN_A_ROW)
            self._queue.expire()

    def _replace(self, thread: DeviceThread, reason: str, *, lost: bool) -> None:
        self._down = f"{reason} The device is lost to this process." if lost else reason
        thread.retired = True
        successor = None if lost else self._new_thread()
        if successor is None:
            self._queue.close()  # before the rest is given up, so that nothing comes after it
        for pending in self._queue.hand_over(successor):
            then = "The server ends" if lost else "It is being started again"
            pending.fail(EngineDown(f"{self._down} {then}; try again.", retry_after_s=1.0))
        if successor is None:
            self._stopped.set()
            _logger.critical("%s The server must be started again.", self._down)
            self._on_lost()
            return
        self._restarts += 1
        _logger.error("%s It is started again, restart %d.", reason, self._restarts)
        self._observer.on_restart(reason)
        self._thread = successor
        self._down = ""
        successor.start()

    def _renew(self) -> None:
        for one in self._executors.values():
            try:
                one.renew()
            except Exception:
                _logger.exception("an executor could not let go of what hung")

    def _hang(self, silent_s: float) -> str:
        return f"The device thread has shown no life for {silent_s:.1f} s."
