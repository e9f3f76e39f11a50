"""`create_app`: the only place that wires everything."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version

import structlog
import torch
from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from app.api import errors, openapi
from app.api.metrics import Metrics
from app.api.middleware import RequestMiddleware
from app.api.routes import catalogue, health, predictions, tasks, transfer, versions
from app.checkpoints.load import load_all
from app.config import Settings
from app.engine.device import resolve_device
from app.engine.scheduler import Engine
from app.registry.repository import Registry
from app.services import Services, wire
from app.services.catalogue import Catalogue
from app.services.workers import Workers

log = structlog.get_logger("imprint.main")

DESCRIPTION = "POST a handful of labelled examples, get a stored classifier, ask it for predictions."


def create_app(settings: Settings | None = None) -> FastAPI:
    """The server. Everything it holds is opened when it starts and closed when it ends."""
    settings = settings or Settings()
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        services = open_services(settings, metrics)
        app.state.services = services
        try:
            yield
        finally:
            await asyncio.to_thread(close_services, services, settings)

    app = FastAPIOffline(
        title="Imprint",
        version=installed_version(),
        description=DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.settings = settings
    app.state.metrics = metrics
    errors.install(app)
    app.add_middleware(RequestMiddleware, metrics=metrics, body_size_bytes=settings.limits.body_size_bytes)
    for module in (tasks, versions, transfer, predictions, catalogue, health):
        app.include_router(module.router)
    app.openapi = lambda: openapi.document(app)  # type: ignore[method-assign]
    return app


def open_services(settings: Settings, metrics: Metrics) -> Services:
    """Load the checkpoints, open the registry, start the engine."""
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    checkpoints, left_out = load_all(settings.model_folders(), settings.wanted_backbones())
    for name, reason in left_out.items():
        log.warning("checkpoint left out", checkpoint=name, reason=reason)
    device = resolve_device(settings.device)
    engine = Engine(
        {name: one.backbone for name, one in checkpoints.items()},
        device=device,
        settings=settings.engine,
        observer=metrics,
    )
    registry = Registry(settings.registry_url(), settings.data_dir)
    try:
        registry.migrate()
        catalogue_ = Catalogue(checkpoints, settings.limits)
        engine.start()
    except BaseException:
        registry.close()
        raise
    log.info("started", device=str(device), checkpoints=sorted(checkpoints), data_dir=str(settings.data_dir))
    return wire(registry, engine, catalogue_, Workers(settings.decode_threads), settings.limits)


def close_services(services: Services, settings: Settings) -> None:
    """Finish what runs, then let go of everything."""
    services.engine.stop(settings.drain_timeout_s)
    services.workers.close()
    services.registry.close()
    log.info("stopped")


def installed_version() -> str:
    """The version of the installed package."""
    try:
        return version("imprint")
    except PackageNotFoundError:
        return "0+source"
