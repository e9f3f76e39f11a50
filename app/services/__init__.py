"""The use cases, wired together."""

from dataclasses import dataclass

from app.core.limits import Limits
from app.engine.scheduler import Engine
from app.registry.repository import Registry
from app.services.adaptation import Adaptation
from app.services.admission import Admission, AdmissionObserver
from app.services.catalogue import Catalogue
from app.services.directory import Directory
from app.services.predict import PredictService
from app.services.tasks import TaskService
from app.services.transfer import TransferService
from app.services.workers import Workers


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
    observer: AdmissionObserver,
) -> Services:
    """Build every service over the same parts."""
    directory = Directory(registry, workers)
    admission = Admission(engine.settings.queue_s, observer)
    adaptation = Adaptation(engine, catalogue, workers, limits)
    return Services(
        registry=registry,
        engine=engine,
        catalogue=catalogue,
        workers=workers,
        limits=limits,
        admission=admission,
        tasks=TaskService(registry, catalogue, adaptation, directory, workers, limits, admission),
        predict=PredictService(registry, engine, catalogue, directory, workers, limits, admission),
        transfer=TransferService(registry, engine, catalogue, directory, workers, limits, admission),
    )
