"""A peer's environment is made once, whole or anew, and says why it cannot be made."""

import subprocess
import zipfile
from pathlib import Path

import pytest
import torch

from benchmarks.environments import (
    CACHE_VARIABLE,
    FINISHED,
    TORCH,
    NotInstalled,
    cache_folder,
    installed_versions,
    python_of,
)


@pytest.fixture
def wheel(tmp_path: Path) -> str:
    """A package of one module, as a requirement that needs no network."""
    file = tmp_path / "tiny_peer-1.5-py3-none-any.whl"
    info = "tiny_peer-1.5.dist-info"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("tiny_peer.py", "ANSWER = 42\n")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-peer\nVersion: 1.5\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return str(file)


def test_an_environment_has_what_was_asked_for_and_nothing_of_ours(tmp_path: Path, wheel: str) -> None:
    python = python_of("tiny", [wheel], tmp_path / "cache")

    asked = [
        str(python),
        "-c",
        "import tiny_peer; print(tiny_peer.ANSWER)\ntry: import torch\nexcept ImportError: print('no torch')",
    ]
    assert subprocess.check_output(asked, text=True).split("\n")[:2] == ["42", "no torch"]
    assert installed_versions(python, ["tiny-peer"]) == "tiny-peer 1.5"


def test_an_environment_is_made_once_and_a_half_made_one_anew(tmp_path: Path) -> None:
    python = python_of("empty", [], tmp_path)
    folder = python.parents[1]
    (folder / "mine").touch()

    assert python_of("empty", [], tmp_path) == python
    assert (folder / "mine").exists()

    (folder / FINISHED).unlink()

    assert python_of("empty", [], tmp_path) == python
    assert not (folder / "mine").exists()


def test_other_requirements_or_names_are_other_environments(tmp_path: Path) -> None:
    empty = python_of("empty", [], tmp_path)

    assert empty != python_of("other", [], tmp_path)
    with pytest.raises(NotInstalled):
        python_of("empty", [str(tmp_path / "missing-1.0-py3-none-any.whl")], tmp_path)
    assert empty.exists()


def test_what_cannot_be_installed_is_told_with_the_last_words_of_pip(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing-1.0-py3-none-any.whl")

    with pytest.raises(
        NotInstalled, match=r"(?s)ended with status 1; its last lines:\n.*missing-1\.0-py3-none-any\.whl"
    ):
        python_of("bad", [missing], tmp_path)

    assert not list(tmp_path.glob(f"bad-*/{FINISHED}"))


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    assert cache_folder() == Path.home() / ".cache" / "imprint" / "peers"

    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    assert cache_folder() == tmp_path
    assert python_of("empty", []).is_relative_to(tmp_path)


def test_torch_is_the_one_that_runs_here_by_whatever_build() -> None:
    assert TORCH.startswith("torch==2")
    assert "+" not in TORCH
    assert torch.__version__.startswith(TORCH.removeprefix("torch=="))
