"""The files that deploy Imprint, read."""

import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def project() -> dict[str, Any]:
    """pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="session")
def compose() -> dict[str, Any]:
    """docker-compose.yml."""
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


@pytest.fixture(scope="session")
def stages() -> list[list[tuple[str, str]]]:
    """The Dockerfile: what stands before the first FROM, then each stage, as (instruction, arguments) pairs."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    found: list[list[tuple[str, str]]] = [[]]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if not line.strip():
            continue
        instruction, _, arguments = line.strip().partition(" ")
        if instruction == "FROM":
            found.append([])
        found[-1].append((instruction, arguments.strip()))
    return found


@pytest.fixture(scope="session")
def image_environment(stages) -> dict[str, str]:
    """The ENV of the final stage."""
    words = [word for name, given in stages[-1] if name == "ENV" for word in shlex.split(given)]
    return dict(word.split("=", 1) for word in words)


@pytest.fixture(scope="session")
def pins() -> dict[str, str]:
    """constraints.txt: name to version."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))
