"""How pip reaches its indexes on this machine, handed on to the build."""

import ast
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

INDEXES = ("index-url", "extra-index-url", "find-links", "no-index")
HANDED_ON = (*INDEXES, "cert", "client-cert", "trusted-host", "proxy", "timeout", "default-timeout", "retries")
CERTIFICATE_VARIABLES = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")


@dataclass(frozen=True)
class PipSettings:
    """pip's settings about indexes and connections, by pip's own names."""

    values: dict[str, str]

    @classmethod
    def of_this_machine(cls) -> Self:
        """What `pip config list` shows, from files and environment together; the environment wins, as in pip."""
        shown = subprocess.run(
            [sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True
        ).stdout
        return cls.parse(shown, dict(os.environ))

    @classmethod
    def parse(cls, shown: str, environment: dict[str, str]) -> Self:
        """From the output of `pip config list`: lines like `global.index-url='https://...'`."""
        found: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
        for line in shown.splitlines():
            key, _, value = line.partition("=")
            section, _, name = key.strip().rpartition(".")
            if section in found and name in HANDED_ON:
                found[section][name] = str(ast.literal_eval(value.strip()))
        values = {**found["global"], **found["install"], **found[":env:"]}
        for name in CERTIFICATE_VARIABLES:
            if environment.get(name) and Path(environment[name]).is_file():
                values.setdefault("cert", environment[name])
        return cls(values)

    def as_config(self) -> str:
        """The text of a pip.conf."""
        lines = [f"{name} = {' '.join(value.split())}\n" for name, value in sorted(self.values.items())]
        return "[global]\n" + "".join(lines)

    def build_arguments(self) -> list[str]:
        """Torch comes from where IMAGE_TORCH_INDEX says, else from pip's indexes where they are set to anything."""
        chosen = os.environ.get("IMAGE_TORCH_INDEX")
        if chosen is None and not any(name in self.values for name in INDEXES):
            return []
        return [f"--build-arg=TORCH_INDEX={chosen or ''}"]

    def local_paths(self) -> list[Path]:
        """Files and folders of this machine that the settings name, to be mounted at the same place.

        The pages of an index in a folder `.../simple` link to files beside it, so its parent is taken.
        """
        paths = []
        for value in self.values.values():
            for word in value.split():
                path = _local(word)
                if path is not None and path.exists():
                    paths.append(path.parent if path.name == "simple" else path)
        return sorted(set(paths))

    def without_local_paths(self) -> "PipSettings":
        """Only what holds elsewhere too."""
        kept = {name: " ".join(w for w in value.split() if _local(w) is None) for name, value in self.values.items()}
        return PipSettings({name: value for name, value in kept.items() if value})


def _local(word: str) -> Path | None:
    if word.startswith("file://"):
        return Path(unquote(urlsplit(word).path))
    return Path(word) if word.startswith("/") else None
