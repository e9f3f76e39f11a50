"""The settings: the only reader of the environment.

Every field is an environment variable with the prefix `IMPRINT_` (`IMPRINT_PORT`), a nested one with
a double underscore (`IMPRINT_LIMITS__LABELS`).
"""

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.core.limits import Limits
from app.engine.executors.choose import ExecutorName, check_installed
from app.engine.work import EngineSettings

HERE = Path(__file__).parent


def bundled_models() -> Path:
    """Where the checkpoints that come with Imprint lie: beside the package, or in it once installed."""
    installed = HERE / "bundled_models"
    return installed if installed.is_dir() else HERE.parent / "models"


class Settings(BaseSettings):
    """What an operator may change."""

    model_config = SettingsConfigDict(env_prefix="IMPRINT_", env_nested_delimiter="__", extra="ignore", frozen=True)

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65_535, description="TCP port to listen on; 0 takes a free one.")
    allow_open_bind: bool = Field(
        False,
        description="Listen beyond loopback although there are no API keys; a proxy in front must check callers.",
    )
    data_dir: Path = Field(Path(".imprint"), description="Folder of the registry: the database and the blobs.")
    database_url: str | None = Field(
        None, description="SQLAlchemy URL of the registry; SQLite in the data folder when unset."
    )
    models: str | None = Field(
        None,
        description="More folders of checkpoints, separated as in PATH; a later folder wins a name.",
    )
    bundled: bool = Field(True, description="Serve the checkpoints that come with Imprint.")
    backbones: str | None = Field(
        None, description="Names of the checkpoints to load, separated by commas; all when unset."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where backbones run; auto takes CUDA where there is one."
    )
    executor: ExecutorName = Field(
        "auto",
        description="What runs frozen backbones on a CPU; auto measures what is installed once and keeps the choice.",
    )
    threads: int | None = Field(None, ge=1, description="CPU threads of the backbones; torch's own default when unset.")
    decode_threads: int = Field(
        min(8, os.cpu_count() or 2), ge=1, description="Threads that decode images, texts and vectors."
    )
    deadline_s: float = Field(120.0, gt=0, description="Seconds a request may take when it sends no X-Deadline-Ms.")
    drain_timeout_s: float = Field(20.0, ge=0, description="Seconds that running work gets to finish at shutdown.")
    keep_alive_s: int = Field(
        75,
        ge=1,
        description="Seconds that a connection may be idle. Longer than a proxy in front keeps its own: who sends on a "
        "connection that the server is just closing gets no answer.",
    )
    log_format: Literal["json", "console"] = Field("json", description="Structured JSON lines, or lines for people.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    limits: Limits = Field(Limits(), description="Limits on what a request may hold; see GET /v1/limits.")
    engine: EngineSettings = Field(EngineSettings(), description="The engine's queue, batches and cache.")

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("executor")
    @classmethod
    def _installed(cls, value: ExecutorName) -> ExecutorName:
        check_installed(value)
        return value

    def executor_folder(self) -> Path:
        """Where exported backbones lie; all in it can be made again."""
        return self.data_dir / "executors"

    def registry_url(self) -> str:
        """The database's SQLAlchemy URL."""
        return self.database_url or f"sqlite:///{self.data_dir / 'imprint.sqlite'}"

    def model_folders(self) -> list[Path]:
        """Folders to scan for checkpoints; a later one overrides a name of an earlier one."""
        extra = [Path(part) for part in (self.models or "").split(os.pathsep) if part]
        return ([bundled_models()] if self.bundled else []) + extra

    def wanted_backbones(self) -> set[str] | None:
        """The names to load; `None` for all."""
        return None if self.backbones is None else {name.strip() for name in self.backbones.split(",") if name.strip()}
