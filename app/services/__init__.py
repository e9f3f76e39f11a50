"""The use cases, wired together."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from app.core.limits import Limits
from app.engine.scheduler import Engine
from app.registry.repository import Registry
from app.services.adaptation import Adaptation
from app.services.admission import Admission, AdmissionObserver
from app.services.catalogue import Catalogue
from app.services.directory import Directory
from app.services.embedding_cache import EmbeddingCache, EmbeddingObserver
from app.services.predict import PredictService
from app.services.tasks import TaskService
from app.services.transfer import TransferService
from app.services.workers import Workers


@runtime_checkable
class Observer(AdmissionObserver, EmbeddingObserver, Protocol):
    """What watches the use cases."""


@dataclass(frozen=True, eq=False)
class Services:
    """All that the HTTP layer calls."""

    registry: Registry
    engine: Engine
    catalogue: Catalogue
    workers: Workers
    limits: Limits
    admission: Admission
    tasks: TaskService
    predict: PredictService
    transfer: TransferService


def wire(
    registry: Registry,
    engine: Engine,
    catalogue: Catalogue,
    workers: Workers,
    limits: Limits,
    observer: Observer,
) -> Services:
    """Build every service over the same parts."""
    directory = Directory(registry, workers)
    admission = Admission(engine.settings.queue_s, observer)
    embeddings = EmbeddingCache(engine.settings.embedding_cache_bytes, observer)
    adaptation = Adaptation(engine, catalogue, workers, limits, embeddings)
    return Services(
        registry=registry,
        engine=engine,
        catalogue=catalogue,
        workers=workers,
        limits=limits,
        admission=admission,
        tasks=TaskService(registry, catalogue, adaptation, directory, workers, limits, admission),
        predict=PredictService(registry, engine, catalogue, directory, workers, limits, admission, embeddings),
        transfer=TransferService(registry, engine, catalogue, directory, workers, limits, admission),
    )
