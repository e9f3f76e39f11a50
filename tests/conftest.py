"""Fixtures for every test."""

import os
from pathlib import Path

import pytest


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
