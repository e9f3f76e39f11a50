"""The image test with a Docker engine."""

import json
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

from scripts.image.engine import IMAGE, STOP_TIMEOUT_S, Engine, call, check_closed
from scripts.image.pip_settings import PipSettings

HARDENED = (
    "--read-only",
    "--tmpfs=/tmp:mode=1777,size=512m,noexec,nosuid,nodev",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges:true",
    "--pids-limit=2048",
)


@final
class Docker(Engine):
    """`docker build` and `docker run`, with the flags that docker-compose.yml sets."""

    name = "docker"

    def __init__(self, root: Path) -> None:
        self.root = root
        self.container = f"imprint-image-test-{uuid.uuid4().hex[:8]}"

    @staticmethod
    def answers() -> bool:
        """Whether there is a client and an engine behind it."""
        if shutil.which("docker") is None:
            return False
        return subprocess.run(["docker", "info"], check=False, capture_output=True, timeout=30).returncode == 0

    def build(self) -> None:
        """See `Engine.build`. pip's folders on this machine cannot be mounted here, so only its URLs are handed on."""
        with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
            settings = PipSettings.of_this_machine()
            file.write(settings.without_local_paths().as_config())
            file.flush()
            secret = f"--secret=id=pip_conf,src={file.name}"
            call(
                ["docker", "build", secret, *settings.build_arguments(), "--tag", IMAGE, "."], show=True, cwd=self.root
            )

    def configuration(self) -> Mapping[str, Any]:
        """See `Engine.configuration`."""
        (image,) = json.loads(call(["docker", "image", "inspect", IMAGE]))
        found: Mapping[str, Any] = image["Config"]
        return found

    def create(self) -> None:
        """See `Engine.create`."""
        call(["docker", "volume", "create", self.container])

    def run(self, command: Sequence[str]) -> str:
        """See `Engine.run`."""
        return call(["docker", "run", "--rm", *HARDENED, *self._volume(), IMAGE, *command])

    def start(self) -> str:
        """See `Engine.start`."""
        if not call(["docker", "ps", "--all", "--quiet", "--filter", f"name={self.container}"]).strip():
            options = ["--name", self.container, "--publish", "127.0.0.1::8000"]
            call(["docker", "create", *options, *HARDENED, *self._volume(), IMAGE])
        call(["docker", "start", self.container])
        return "http://" + call(["docker", "port", self.container, "8000/tcp"]).split()[0]

    def is_running(self) -> bool:
        """See `Engine.is_running`."""
        return self._state("Running") == "true"

    def check_health(self) -> None:
        """See `Engine.check_health`. The image's own command, now; the engine's first round comes after 30 s."""
        call(["docker", "exec", self.container, *self.configuration()["Healthcheck"]["Test"][1:]])

    def stop(self) -> None:
        """See `Engine.stop`."""
        call(["docker", "stop", f"--time={STOP_TIMEOUT_S}", self.container])
        check_closed(self.logs())

    def logs(self) -> str:
        """See `Engine.logs`."""
        command = ["docker", "logs", "--tail=30", self.container]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        return done.stdout + done.stderr

    def remove(self) -> None:
        """See `Engine.remove`."""
        for command in (["rm", "--force"], ["volume", "rm", "--force"]):
            subprocess.run(["docker", *command, self.container], check=False, capture_output=True)

    def _volume(self) -> list[str]:
        return ["--volume", f"{self.container}:/data"]

    def _state(self, field: str) -> str:
        return call(["docker", "inspect", "--format", f"{{{{.State.{field}}}}}", self.container]).strip()
