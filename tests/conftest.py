"""Fixtures for every test."""

import os
from pathlib import Path

import hypothesis
import pytest
import structlog

import app  # noqa: F401 - first: its choice for OpenMP must reach torch

# Exports and measures nothing, where a test is not about that: `auto` would, at each start on a new data folder.
os.environ["IMPRINT_EXECUTOR"] = "torch"

# Machines are noisy: no test of ours fails for being slow.
hypothesis.settings.register_profile("imprint", deadline=None)
hypothesis.settings.load_profile("imprint")

structlog.configure(
    processors=[structlog.processors.format_exc_info, structlog.processors.KeyValueRenderer(["event"])],
    logger_factory=structlog.PrintLoggerFactory(),
)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of data sets: skips where IMPRINT_DATA is not set, fails where it is set and wrong."""
    value = os.environ.get("IMPRINT_DATA")
    if not value:
        pytest.skip("IMPRINT_DATA is not set")
    folder = Path(value).resolve()
    if not folder.is_dir():
        pytest.fail(f"IMPRINT_DATA is {value!r}, which is not a folder")
    return folder


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own IMPRINT_ settings do not reach the tests."""
    for name in os.environ:
        if name.startswith("IMPRINT_") and name not in ("IMPRINT_DATA", "IMPRINT_EXECUTOR"):
            monkeypatch.delenv(name)
