"""How work for the device can fail, beside the families that everyone shares."""

from typing import final

from app.core.errors import ImprintError, Unavailable


@final
class EngineFailure(ImprintError):
    """A backbone or a head raised something without a name; only the work that met it fails."""

    code = "engine-failure"
    title = "The computation failed"


@final
class EngineDown(Unavailable):
    """The device thread died, hangs, or does not run yet; it is started again by itself."""

    code = "engine-down"
    title = "The engine is down"


@final
class Draining(Unavailable):
    """The server is shutting down: it finishes what it has and takes nothing new."""

    code = "draining"
    title = "The server is shutting down"


@final
class NobodyWaits(Exception):
    """Ends a head whose caller has gone; no one sees it."""


@final
class DeviceMemoryFull(Unavailable):
    """Not even one example fits into the device's free memory."""

    code = "device-memory-full"
    title = "The device is out of memory"

    def __init__(self) -> None:
        super().__init__("The device has no memory left for this request; try again, or send less.", retry_after_s=1.0)
