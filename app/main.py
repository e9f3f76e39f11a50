"""`create_app`: the only place that wires everything."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, contextmanager
from importlib.metadata import PackageNotFoundError, version

import structlog
import torch
from fastapi import Depends, FastAPI
from fastapi_offline import FastAPIOffline

from app.api import errors, openapi
from app.api.application import Application
from app.api.deps import known_query
from app.api.metrics import Metrics
from app.api.routes import catalogue, health, predictions, tasks, transfer, versions
from app.checkpoints.load import Checkpoint, load_all
from app.config import Settings
from app.engine.device import resolve_device
from app.engine.executors.choose import Choice, Wish, choose_all
from app.engine.scheduler import Engine
from app.registry.ownership import owned
from app.registry.repository import Registry
from app.services import Services, wire
from app.services.catalogue import Catalogue
from app.services.workers import Workers

log = structlog.get_logger("imprint.main")

DESCRIPTION = "POST a handful of labelled examples, get a stored classifier, ask it for predictions."


def create_app(
    settings: Settings | None = None,
    *,
    when_ready: Callable[[], None] = lambda: None,
    when_lost: Callable[[], None] = lambda: None,
) -> Application:
    """The server. What it holds is opened when it starts, before `when_ready` is called, and closed when it ends.

    `when_lost` is called, on a thread of the engine's, where it cannot compute any more: end the process.
    """
    settings = settings or Settings()
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        running = opened(settings, metrics, when_lost)
        app.state.services = await asyncio.to_thread(running.__enter__)
        when_ready()
        try:
            yield
        finally:
            await asyncio.to_thread(running.__exit__, None, None, None)

    framework = FastAPIOffline(
        title="Imprint",
        version=installed_version(),
        description=DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
        redirect_slashes=False,
    )
    framework.state.settings = settings
    framework.state.metrics = metrics
    errors.install(framework)
    for module in (tasks, versions, transfer, predictions, catalogue, health):
        framework.include_router(module.router, dependencies=[Depends(known_query)])
    framework.openapi = lambda: openapi.document(framework)  # type: ignore[method-assign]
    return Application(framework, settings, metrics)


@contextmanager
def opened(settings: Settings, metrics: Metrics, when_lost: Callable[[], None] = lambda: None) -> Iterator[Services]:
    """Checkpoints loaded, registry open, engine running; all of it closed at the end, in the opposite order."""
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    with owned(settings.data_dir), closing(Registry(settings.registry_url(), settings.data_dir)) as registry:
        checkpoints = _loaded(settings, registry)
        backbones = {name: one.backbone for name, one in checkpoints.items()}
        device = resolve_device(settings.device)
        wish = Wish(settings.executor, settings.executor_folder(), settings.engine.micro_batch_tokens)
        choices = choose_all(checkpoints, device, wish)
        executors = {name: one.executor for name, one in choices.items()}
        engine = Engine(
            backbones,
            device=device,
            settings=settings.engine,
            observer=metrics,
            executors=executors,
            on_lost=when_lost,
        )
        catalogue_ = Catalogue(checkpoints, settings.limits, device, choices)
        with closing(Workers(settings.decode_threads)) as workers:
            engine.start()
            log.info("started", device=str(device), executors=_shown(choices), data_dir=str(settings.data_dir))
            try:
                yield wire(registry, engine, catalogue_, workers, settings.limits, metrics)
            finally:
                engine.stop(settings.drain_timeout_s)
    log.info("stopped")


def _loaded(settings: Settings, registry: Registry) -> dict[str, Checkpoint]:
    """The checkpoints; the registry is brought up to date beside it."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="imprint-migrate") as beside:
        migrated = beside.submit(_bring_up_to_date, registry)
        checkpoints, left_out = load_all(settings.model_folders(), settings.wanted_backbones())
        migrated.result()
    for name, reason in left_out.items():
        log.warning("checkpoint left out", checkpoint=name, reason=reason)
    return checkpoints


def _bring_up_to_date(registry: Registry) -> None:
    registry.migrate()
    registry.idempotency.forget_unfinished()


def _shown(choices: Mapping[str, Choice]) -> dict[str, str]:
    """What runs each checkpoint, for the log."""
    shown = {}
    for name, one in sorted(choices.items()):
        times = ", ".join(f"{spent_ms:.2f} ms in {size}" for size, spent_ms in one.example_ms.items())
        shown[name] = f"{one.executor.name} {one.version}" + (f" ({times})" if times else "")
    return shown


def installed_version() -> str:
    """The version of the installed package."""
    try:
        return version("imprint")
    except PackageNotFoundError:
        return "0+source"
