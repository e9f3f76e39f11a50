"""Prometheus metrics. Labels are routes, backbones and learners; never a task, a name or an id."""

from functools import cache
from typing import TypeVar, final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from app.engine.observer import BatchReport, CacheEvent

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

M = TypeVar("M", Counter, Gauge, Histogram)


def _labelled(metric: M, *labels: str) -> M:
    """The child of a metric with these labels; looked up by the client library under a lock, with checks."""
    return metric.labels(*labels)


@final
class Metrics:
    """All metrics of one server, and the observer of the engine and of admission. Every app has its own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own = self.registry
        self._of = cache(_labelled)
        self._waiting: dict[str, int] = {}
        self._cached_bytes = 0
        self._requests = Counter("imprint_http_requests", "HTTP requests.", ["method", "route", "status"], registry=own)
        self._request_seconds = Histogram(
            "imprint_http_request_seconds", "Seconds to answer.", ["route"], buckets=SECONDS, registry=own
        )
        self._batches = Counter("imprint_batches", "Batches through a backbone.", ["backbone"], registry=own)
        self._forwards = Counter("imprint_forwards", "Forward passes of a backbone.", ["backbone"], registry=own)
        self._examples = Counter("imprint_examples", "Examples embedded.", ["backbone"], registry=own)
        self._batch_works = Histogram(
            "imprint_batch_works", "Requests that shared a batch.", ["backbone"], buckets=SIZES, registry=own
        )
        self._batch_seconds = Counter(
            "imprint_batch_seconds", "Device seconds in backbones.", ["backbone"], registry=own
        )
        self._head_seconds = Counter("imprint_head_seconds", "Device seconds in heads.", ["backbone"], registry=own)
        self._queue = Gauge(
            "imprint_queue_examples", "Examples that waited when the last batch was taken.", registry=own
        )
        self._admitted = Gauge(
            "imprint_admitted_examples",
            "Examples let in and not computed: decoding, queued or on the device.",
            ["backbone"],
            registry=own,
        )
        self._refused = Counter(
            "imprint_refusals", "Requests that were told to come back later.", ["backbone"], registry=own
        )
        self._queue_seconds = Histogram(
            "imprint_queue_seconds", "Seconds a work waited.", ["backbone"], buckets=SECONDS, registry=own
        )
        self._device_seconds = Histogram(
            "imprint_device_seconds", "Seconds a work computed.", ["backbone"], buckets=SECONDS, registry=own
        )
        self._cache_events = Counter("imprint_state_cache_events", "What the state cache did.", ["event"], registry=own)
        self._cache_bytes = Gauge("imprint_state_cache_bytes", "Bytes of adapted states on the device.", registry=own)
        self._embeddings = Counter(
            "imprint_embedding_cache_examples", "Support examples looked up or let go.", ["event"], registry=own
        )
        self._embedding_bytes = Gauge("imprint_embedding_cache_bytes", "Bytes of embeddings kept.", registry=own)
        self._restarts = Counter("imprint_engine_restarts", "Times that the device thread was replaced.", registry=own)
        self._adaptations = Counter(
            "imprint_adaptations", "Versions made.", ["backbone", "learner", "change"], registry=own
        )
        self._predictions = Counter("imprint_predictions", "Inputs predicted.", ["backbone", "learner"], registry=own)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """An HTTP request was answered; status 0 is a client that left."""
        self._of(self._requests, method, route, str(status)).inc()
        self._of(self._request_seconds, route).observe(seconds)

    def adapted(self, backbone: str, learner: str, change: str) -> None:
        """A version was made."""
        self._of(self._adaptations, backbone, learner, change).inc()

    def predicted(self, backbone: str, learner: str, inputs: int) -> None:
        """Inputs were predicted."""
        self._of(self._predictions, backbone, learner).inc(inputs)

    def on_waiting(self, backbone: str, examples: int) -> None:
        """So many examples are in the server and not computed."""
        self._waiting[backbone] = examples

    def on_refused(self, backbone: str) -> None:
        """A request was told to come back later."""
        self._of(self._refused, backbone).inc()

    def on_batch(self, report: BatchReport) -> None:
        """A batch went through its backbone."""
        self._of(self._batches, report.backbone).inc()
        self._of(self._forwards, report.backbone).inc(report.forwards)
        self._of(self._examples, report.backbone).inc(report.examples)
        self._of(self._batch_works, report.backbone).observe(report.works)
        self._of(self._batch_seconds, report.backbone).inc(report.seconds)
        self._queue.set(report.queue_examples)

    def on_heads(self, backbone: str, seconds: float) -> None:
        """Heads of a batch were run."""
        self._of(self._head_seconds, backbone).inc(seconds)

    def on_work(self, backbone: str, queue_s: float, device_s: float) -> None:
        """A work was finished with a result."""
        self._of(self._queue_seconds, backbone).observe(queue_s)
        self._of(self._device_seconds, backbone).observe(device_s)

    def on_cache(self, event: CacheEvent, size_bytes: int) -> None:
        """The state cache was asked or changed."""
        self._of(self._cache_events, event).inc()
        self._cached_bytes = size_bytes

    def on_recall(self, hits: int, misses: int) -> None:
        """A support set's new examples were looked up among the embeddings kept."""
        self._of(self._embeddings, "hit").inc(hits)
        self._of(self._embeddings, "miss").inc(misses)

    def on_remember(self, evicted: int, size_bytes: int) -> None:
        """Embeddings were kept, and others let go."""
        self._of(self._embeddings, "evict").inc(evicted)
        self._embedding_bytes.set(size_bytes)

    def on_restart(self, reason: str) -> None:
        """The device thread is about to be replaced."""
        del reason
        self._restarts.inc()

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        for backbone, examples in list(self._waiting.items()):
            self._admitted.labels(backbone).set(examples)
        self._cache_bytes.set(self._cached_bytes)
        return generate_latest(self.registry)
