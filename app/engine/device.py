"""The thread that owns the accelerator."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from threading import Thread
from typing import final

import torch

from app.core.episode import Features
from app.core.errors import DeadlinePassed, ImprintError
from app.core.heartbeat import beating
from app.engine.errors import DeviceMemoryFull, EngineFailure, NobodyWaits
from app.engine.executors._base import Executor, is_out_of_memory
from app.engine.observer import BatchReport, EngineObserver
from app.engine.pending import Pending, Slice
from app.engine.queue import WorkQueue

_logger = logging.getLogger(__name__)


def resolve_device(name: str) -> torch.device:
    """The device for `auto` (CUDA where there is one), `cpu` or `cuda`.

    Raises: `ValueError` for another name, and for `cuda` where torch sees no CUDA device.
    """
    if name not in {"auto", "cpu", "cuda"}:
        raise ValueError(f"There is no device {name!r}; choose auto, cpu or cuda.")
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        build = "is built without CUDA" if torch.version.cuda is None else "finds no CUDA device"
        raise ValueError(f"The device is set to cuda, but this torch ({torch.__version__}) {build}; use auto or cpu.")
    return torch.device("cuda", torch.cuda.current_device())


@final
class Abandoned(BaseException):
    """Ends a thread that hung and was replaced, at its first sign of life."""


@final
class DeviceThread:
    """One generation of the thread that runs backbones and heads; it serves until it is told to end, or dies."""

    def __init__(
        self,
        queue: WorkQueue,
        executors: Mapping[str, Executor],
        observer: EngineObserver,
        on_end: Callable[[], None],
    ) -> None:
        self._queue = queue
        self._executors = executors
        self._observer = observer
        self._on_end = on_end
        self._thread = Thread(target=self._main, name="imprint-device", daemon=True)
        self.retired = False
        self.last_beat_s = time.monotonic()
        self.ended = False
        self.finished = False
        """Ended because the queue was closed and empty."""

    def start(self) -> None:
        """Begin to take work; this thread must be the queue's owner."""
        self._thread.start()

    def beat(self) -> None:
        """Show life. Raises `Abandoned` when another thread has taken over."""
        self.last_beat_s = time.monotonic()
        if self.retired:
            raise Abandoned

    def silent_s(self, now_s: float) -> float:
        """Seconds since it last showed life while it had something to do."""
        busy_since_s = self._queue.busy_since_s
        return 0.0 if busy_since_s is None else max(0.0, now_s - max(busy_since_s, self.last_beat_s))

    def _main(self) -> None:
        try:
            with torch.no_grad():
                # A batch's tensors live in `_step` alone, so that none is kept while the queue is empty.
                while self._step():
                    pass
            self.finished = not self.retired
        except Abandoned:
            _logger.warning("a device thread that hung came back and ended")
        except BaseException:
            _logger.critical("the device thread died", exc_info=True)
        finally:
            self.ended = True
            self._on_end()

    def _step(self) -> bool:
        slices = self._queue.take(self)
        if slices is None:
            return False
        self.beat()
        with_rows = [one for one in slices if one.rows and not one.pending.finished]
        if with_rows:
            self._run_backbone(with_rows, self._queue.examples)
        done = [one.pending for one in slices if not one.pending.left]
        # Small works first: a predict does not wait for the fit of an adaptation in the same batch.
        # Without rows it is a refit of stored embeddings, which may be a long one.
        done.sort(key=lambda one: len(one.work.inputs) or len(slices) + one.work.cost_examples)
        light = [one for one in done if not one.work.head_examples]
        if light:
            with one_cpu_thread():
                for pending in light:
                    self._run_head(pending)
        for pending in done:
            if pending.work.head_examples:
                self._run_head(pending)
        return True

    def _run_backbone(self, slices: Sequence[Slice], queue_examples: int) -> None:
        backbone = slices[0].pending.work.backbone
        executor = self._executors[backbone]
        started_s, forwards = time.monotonic(), executor.forwards
        self._embed(executor, slices)
        seconds = time.monotonic() - started_s
        for one in slices:
            one.pending.device_s += seconds
        examples = sum(one.rows for one in slices)
        report = BatchReport(backbone, len(slices), examples, executor.forwards - forwards, seconds, queue_examples)
        self._observer.on_batch(report)

    def _embed(self, executor: Executor, slices: Sequence[Slice]) -> None:
        """Embed all; where that fails, halve until only the work at fault fails."""
        failure: Exception
        try:
            features = executor.embed([one.inputs for one in slices], self.beat)
        except ImprintError as error:
            failure = error
        except Exception as error:
            _logger.warning("a forward of %d works failed", len(slices), exc_info=True)
            failure = error
        else:
            _deal_out(features, slices)
            return
        if len(slices) > 1:
            middle = len(slices) // 2
            self._embed(executor, slices[:middle])
            self._embed(executor, slices[middle:])
        else:
            self._fail(slices[0].pending, failure)

    def _run_head(self, pending: Pending) -> None:
        if pending.finished:
            return
        self.beat()
        work = pending.work
        started_s = time.monotonic()
        try:
            features = pending.features() if pending.parts else self._executors[work.backbone].no_features(work.inputs)
            with beating(partial(self._beat_of_head, pending)):
                value = work.head(features)
        except ImprintError as error:
            self._fail(pending, error)
        except Exception as error:
            # Not where the caller has gone: what the head needs, a pinned state, went with it.
            if not pending.finished:
                _logger.exception("a head failed")
            self._fail(pending, error)
        else:
            pending.device_s += time.monotonic() - started_s
            outcome = pending.outcome(value)
            # Before the answer, so that whoever has it finds it counted.
            self._observer.on_work(work.backbone, outcome.queue_s, outcome.device_s)
            pending.succeed(outcome)

    def _beat_of_head(self, pending: Pending) -> None:
        """Show life between the steps of a head, and end one whose answer would come too late."""
        self.beat()
        if pending.finished:
            raise NobodyWaits
        if pending.expired(time.monotonic()):
            raise DeadlinePassed("The deadline passed during the computation.")

    def _fail(self, pending: Pending, error: Exception) -> None:
        self._queue.drop(pending)
        pending.fail(named(error))


@contextmanager
def one_cpu_thread() -> Iterator[None]:
    """Heads are small: on a busy machine it costs 30 times more to share them among threads than to run them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def named(error: Exception) -> ImprintError:
    """The error that the caller gets: one with a name as it is, another wrapped, its text kept from the caller."""
    if isinstance(error, ImprintError):
        return error
    if is_out_of_memory(error):
        return DeviceMemoryFull()
    failure = EngineFailure("The computation failed on this input; the log of the server says why.")
    failure.__cause__ = error
    return failure


def _deal_out(features: Features, slices: Sequence[Slice]) -> None:
    at = 0
    for one in slices:
        one.pending.parts.append(features[at : at + one.rows])
        at += one.rows
