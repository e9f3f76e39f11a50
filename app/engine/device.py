"""The thread that owns the accelerator."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from threading import Thread
from typing import final

import torch

from app.core.episode import Features
from app.core.errors import DeadlinePassed, ImprintError
from app.core.heartbeat import beating
from app.core.threads import name_this_thread
from app.engine.clock import Clock, CpuClock, Mark, clock_of
from app.engine.cpu_threads import one_cpu_thread
from app.engine.errors import DeviceMemoryFull, EngineFailure, NobodyWaits, is_out_of_memory
from app.engine.executors._base import Executor
from app.engine.observer import BatchReport, EngineObserver
from app.engine.pending import Pending, Slice, deal_out, give_back, side_by_side
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
        self._clock: Clock = next((clock_of(one.device) for one in executors.values()), CpuClock())
        self._thread = Thread(target=self._main, name="imprint-device", daemon=True)
        self.retired = False
        self.last_beat_s = time.monotonic()
        self.ended = False
        self.finished = False
        """Ended because the queue was closed and empty."""
        self.lost = False
        """Ended because the device failed, and fails whatever it is asked from now on."""
        self.batches = 0
        """Batches that it came to the end of."""

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
        name_this_thread("imprint-device")
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
            self.lost = not self._clock.answers()
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
        done.sort(key=lambda one: one.work.inputs.shape[0] or len(slices) + one.work.cost_examples)
        light = [one for one in done if not one.work.head_examples]
        self._run_light([one for one in light if one.work.scores])
        self._run_light([one for one in light if not one.work.scores])
        self._clock.settle()
        heavy = [one for one in done if one.work.head_examples]
        for able in side_by_side(heavy):
            began = self._clock.mark()
            self._run_together(able)
            self._clock.when_known(began, partial(self._observer.on_heads, able[0].work.backbone))
            self._clock.settle()
        self.batches += 1
        return True

    def _run_light(self, light: Sequence[Pending]) -> None:
        """Run heads on one CPU thread, and wait for the device once."""
        if not light:
            return
        backbone, began = light[0].work.backbone, self._clock.mark()
        with one_cpu_thread():
            for able in side_by_side(light):
                self._run_together(able)
        self._clock.when_known(began, partial(self._observer.on_heads, backbone))
        self._clock.settle()

    def _run_backbone(self, slices: Sequence[Slice], queue_examples: int) -> None:
        backbone = slices[0].pending.work.backbone
        executor = self._executors[backbone]
        began, forwards = self._clock.mark(), executor.forwards
        self._embed(executor, slices)
        forwards = executor.forwards - forwards
        examples = sum(one.rows for one in slices)

        def known(seconds: float) -> None:
            for one in slices:
                one.pending.device_s += seconds
            self._observer.on_batch(BatchReport(backbone, len(slices), examples, forwards, seconds, queue_examples))

        self._clock.when_known(began, known)

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
            deal_out(features, slices)
            return
        if len(slices) > 1:
            middle = len(slices) // 2
            self._embed(executor, slices[:middle])
            self._embed(executor, slices[middle:])
        else:
            self._fail(slices[0].pending, failure)

    def _run_together(self, able: Sequence[Pending]) -> None:
        """Run heads in one call; where that fails, in halves, to find which is at fault or what memory holds."""
        able = [one for one in able if not one.finished]
        joint = able[0].work.together if len(able) > 1 else None
        if joint is None:
            for one in able:
                self._run_head(one)
            return
        self.beat()
        began = self._clock.mark()
        features: list[Features] = []
        try:
            features.extend(map(self._features, able))
            with beating(partial(self._beat_of, able)):
                values = joint.run([one.work.head for one in able], features)
            if len(values) != len(able):
                raise RuntimeError(f"{len(values)} results of {len(able)} heads")
        except (NobodyWaits, DeadlinePassed):
            pass  # each hears why by itself
        except Exception:
            _logger.warning("%d heads failed together", len(able), exc_info=True)
        else:
            for one, value in zip(able, values, strict=True):
                if isinstance(value, Exception):
                    self._fail(one, value)
                else:
                    self._succeed(one, value, began)
            return
        give_back(able, features)
        middle = len(able) // 2
        self._run_together(able[:middle])
        self._run_together(able[middle:])

    def _run_head(self, pending: Pending) -> None:
        if pending.finished:
            return
        self.beat()
        work = pending.work
        began = self._clock.mark()
        try:
            features = self._features(pending)
            with beating(partial(self._beat_of, [pending])):
                value = work.head(features)
        except ImprintError as error:
            self._fail(pending, error)
        except Exception as error:
            # Not where the caller has gone: what the head needs, a pinned state, went with it.
            if not pending.finished:
                _logger.exception("a head failed")
            self._fail(pending, error)
        else:
            self._succeed(pending, value, began)

    def _features(self, pending: Pending) -> Features:
        work = pending.work
        return pending.features() if pending.parts else self._executors[work.backbone].no_features(work.inputs)

    def _succeed(self, pending: Pending, value: object, began: Mark) -> None:
        """Hand the result to the caller, once the device has it: what its head copies may still be under way."""

        def known(head_s: float) -> None:
            pending.device_s += head_s
            outcome = pending.outcome(value)
            # Before the answer, so that whoever has it finds it counted.
            self._observer.on_work(pending.work.backbone, outcome.queue_s, outcome.device_s)
            pending.succeed(outcome)

        self._clock.when_known(began, known)

    def _beat_of(self, works: Sequence[Pending]) -> None:
        """Show life between the steps of heads, and end them where each one's answer would come too late."""
        self.beat()
        waiting = [one for one in works if not one.finished]
        if not waiting:
            raise NobodyWaits
        now_s = time.monotonic()
        if all(one.expired(now_s) for one in waiting):
            raise DeadlinePassed("The deadline passed during the computation.")

    def _fail(self, pending: Pending, error: Exception) -> None:
        self._queue.drop(pending)
        pending.fail(named(error))


def named(error: Exception) -> ImprintError:
    """The error that the caller gets: one with a name as it is, another wrapped, its text kept from the caller."""
    if isinstance(error, ImprintError):
        return error
    if is_out_of_memory(error):
        return DeviceMemoryFull()
    failure = EngineFailure("The computation failed on this input; the log of the server says why.")
    failure.__cause__ = error
    return failure
