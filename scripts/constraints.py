"""`python -m scripts.constraints`: write constraints.txt anew from what pip resolves today.

Nothing is installed. The versions are pip's choice for this Python and platform, so run it on Linux with the oldest
Python that pyproject.toml allows. torch is held back: the file says which release, and its CUDA packages come along.
"""

import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS = ROOT / "constraints.txt"
TORCH = "torch==2.13.0"
HEAD = """\
# Exact versions of everything that Imprint, its extras and its development tools install, for Python 3.11 to 3.13:
#   pip install -c constraints.txt -e '.[text,demo,dev]'
# Made anew by: make constraints
# torch has no local version (+cpu, +cu130), so that one file serves every build of it.
"""
CUDA = "\n# What torch's CUDA 13.0 build brings (TORCH=cu130 in the Dockerfile); the CPU build needs none of it.\n"


def main() -> None:
    """Write the file."""
    everything = resolve([TORCH, *requirements(), "pip"])
    # The index's own build of torch: a build of this machine's would hide the CUDA packages.
    everything.update(resolve([TORCH], "--isolated"))
    cuda = {name: version for name, version in everything.items() if name.startswith(("cuda-", "nvidia-", "triton"))}
    rest = {name: version for name, version in everything.items() if name not in cuda}
    CONSTRAINTS.write_text(HEAD + lines(rest) + CUDA + lines(cuda), encoding="utf-8")


def requirements() -> list[str]:
    """What pyproject.toml names: dependencies, extras and the build backend."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = [one for extra in project["project"]["optional-dependencies"].values() for one in extra]
    return [*project["project"]["dependencies"], *extras, *project["build-system"]["requires"]]


def resolve(wanted: list[str], *options: str) -> dict[str, str]:
    """The versions pip would install in an empty environment."""
    with tempfile.NamedTemporaryFile() as report:
        command = [sys.executable, "-m", "pip", *options, "install", "--dry-run", "--ignore-installed", "--quiet"]
        subprocess.run([*command, f"--report={report.name}", *wanted], check=True)
        chosen = [one["metadata"] for one in json.load(report)["install"]]
    return {canonicalize_name(one["name"]): one["version"].partition("+")[0] for one in chosen}


def lines(pins: dict[str, str]) -> str:
    """One exact version a line, by name."""
    return "".join(f"{name}=={version}\n" for name, version in sorted(pins.items()))


if __name__ == "__main__":
    main()
