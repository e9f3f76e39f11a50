"""`imprint doctor`: is this machine fit to serve? Prints one line a check."""

import shutil

import torch
from rich.console import Console

from app.checkpoints.load import load_all
from app.config import Settings
from app.core.errors import ImprintError
from app.engine.device import resolve_device
from app.registry.repository import Registry
from app.registry.session import linked_sqlite

LEAST_FREE_BYTES = 1024**3


def report(settings: Settings) -> bool:
    """Print the checks; false when one of them means that the server cannot work well."""
    console = Console(highlight=False)
    fine = True
    for name, ok, detail in [
        _device(settings),
        *_checkpoints(settings),
        _sqlite(),
        _disk(settings),
        _registry(settings),
    ]:
        console.print("[green]ok  [/green]" if ok else "[red]BAD [/red]", f"{name}: {detail}", soft_wrap=True)
        fine = fine and ok
    return fine


def _device(settings: Settings) -> tuple[str, bool, str]:
    try:
        device = resolve_device(settings.device)
    except ValueError as error:
        return "device", False, str(error)
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    return "device", True, f"{device} ({kind}), torch {torch.__version__}"


def _checkpoints(settings: Settings) -> list[tuple[str, bool, str]]:
    checkpoints, left_out = load_all(settings.model_folders(), settings.wanted_backbones())
    lines = [
        (f"checkpoint {name}", True, f"{one.card.modality}, sha256 {one.sha256[:12]}")
        for name, one in sorted(checkpoints.items())
    ]
    lines += [(f"checkpoint {name}", False, str(reason)) for name, reason in sorted(left_out.items())]
    return lines or [("checkpoints", False, "none found; set IMPRINT_MODELS")]


def _sqlite() -> tuple[str, bool, str]:
    number, safe = linked_sqlite()
    detail = number if safe else f"{number} can lose data in WAL mode; install the package pysqlite3"
    return "SQLite", safe, detail


def _disk(settings: Settings) -> tuple[str, bool, str]:
    folder = settings.data_dir
    while not folder.exists():
        folder = folder.parent
    free_bytes = shutil.disk_usage(folder).free
    return "disk", free_bytes >= LEAST_FREE_BYTES, f"{free_bytes / 1024**3:.1f} GiB free for {settings.data_dir}"


def _registry(settings: Settings) -> tuple[str, bool, str]:
    if settings.database_url is None and not (settings.data_dir / "imprint.sqlite").exists():
        return "registry", True, "not made yet; the first start makes it"
    registry = Registry(settings.registry_url(), settings.data_dir)
    try:
        registry.check()
    except ImprintError as error:
        return "registry", False, error.detail
    finally:
        registry.close()
    return "registry", True, "can be read and written"
