"""The image test without a Docker engine: buildah, chroot isolation, storage driver vfs, all under `.image/`.

Chroot isolation shares this machine's network and process ids, so the server gets a free port through IMPRINT_PORT,
and SIGTERM goes to its own process: buildah would answer it by killing the server.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

from scripts.image.base import make_base
from scripts.image.engine import IMAGE, STOP_TIMEOUT_S, USER_ID, Engine, EngineError, call, check_closed
from scripts.image.pip_settings import PipSettings

ISOLATION = "--isolation=chroot"
CAPABILITIES = "--cap-drop=all"


@final
class Buildah(Engine):
    """`buildah bud` and `buildah run`."""

    name = "buildah"

    def __init__(self, root: Path, scratch: Path) -> None:
        if os.geteuid() != 0:
            raise EngineError(
                "without a Docker engine the image test must be run as root: debootstrap and chroot need it"
            )
        self.root = root
        self.scratch = scratch
        self.data = scratch / "data"
        self.log = scratch / "server.log"
        self.buildah = [
            "buildah",
            f"--root={scratch / 'store'}",
            f"--runroot={scratch / 'run'}",
            "--storage-driver=vfs",
        ]
        self.container = ""
        self.server: subprocess.Popen[bytes] | None = None

    def build(self) -> None:
        """See `Engine.build`. Local folders that pip reads here are mounted, read-only, while it builds."""
        base = make_base(self.buildah, self.scratch)
        settings = PipSettings.of_this_machine()
        secret = self.scratch / "pip.conf"
        secret.touch(mode=0o600)
        secret.write_text(settings.as_config(), encoding="utf-8")
        mounts = [f"--volume={path}:{path}:ro" for path in settings.local_paths()]
        # The docker format, because the OCI format has no healthcheck.
        command = [*self.buildah, "bud", ISOLATION, "--format=docker", f"--build-arg=BASE={base}"]
        command += [*settings.build_arguments(), f"--secret=id=pip_conf,src={secret}", *mounts, f"--tag={IMAGE}", "."]
        try:
            call(command, show=True, cwd=self.root)
        finally:
            secret.unlink()  # an index's address may hold a password
        call([*self.buildah, "rmi", "--prune"])

    def configuration(self) -> Mapping[str, Any]:
        """See `Engine.configuration`."""
        found: Mapping[str, Any] = json.loads(call([*self.buildah, "inspect", "--type=image", IMAGE]))["Docker"][
            "config"
        ]
        return found

    def create(self) -> None:
        """See `Engine.create`. The volume is a folder, owned as the image's /data is."""
        shutil.rmtree(self.data, ignore_errors=True)
        self.data.mkdir(parents=True)
        self.data.chmod(0o750)
        os.chown(self.data, USER_ID, USER_ID)
        self.log.unlink(missing_ok=True)
        self.container = call([*self.buildah, "from", f"localhost/{IMAGE}"]).strip()

    def run(self, command: Sequence[str]) -> str:
        """See `Engine.run`. Chroot isolation has no read-only root: what the user may write is checked instead."""
        return call(self._run(command))

    def start(self) -> str:
        """See `Engine.start`."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        settings = [f"--env=IMPRINT_PORT={port}", "--env=IMPRINT_HOST=127.0.0.1"]
        with self.log.open("wb") as log:
            self.server = subprocess.Popen(
                self._run(self.configuration()["Cmd"], settings), stdout=log, stderr=log, start_new_session=True
            )
        self.port = port
        return f"http://127.0.0.1:{port}"

    def is_running(self) -> bool:
        """See `Engine.is_running`."""
        return self.server is not None and self.server.poll() is None

    def check_health(self) -> None:
        """See `Engine.check_health`."""
        call(self._run(self.configuration()["Healthcheck"]["Test"][1:], [f"--env=IMPRINT_PORT={self.port}"]))

    def stop(self) -> None:
        """See `Engine.stop`."""
        if self.server is None or self.server.poll() is not None:
            raise EngineError(f"the server ended by itself:\n{self.logs()}")
        os.kill(_innermost(self.server.pid), signal.SIGTERM)
        try:
            self.server.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            raise EngineError(f"the server did not end within {STOP_TIMEOUT_S} s of SIGTERM:\n{self.logs()}") from error
        self.server = None
        check_closed(self.logs())

    def logs(self) -> str:
        """See `Engine.logs`."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])

    def remove(self) -> None:
        """See `Engine.remove`."""
        if self.server is not None and self.server.poll() is None:
            os.kill(_innermost(self.server.pid), signal.SIGKILL)
            self.server.wait(STOP_TIMEOUT_S)
        if self.container:
            subprocess.run([*self.buildah, "rm", self.container], check=False, capture_output=True)
        shutil.rmtree(self.data, ignore_errors=True)

    def _run(self, command: Sequence[str], options: Sequence[str] = ()) -> list[str]:
        volume = f"--volume={self.data}:/data"
        return [*self.buildah, "run", ISOLATION, CAPABILITIES, volume, *options, self.container, "--", *command]


def _innermost(process_id: int) -> int:
    """The last of a line of only children: the container's own process under buildah's."""
    while True:
        threads = Path(f"/proc/{process_id}/task").glob("*/children")
        children = [child for thread in threads for child in thread.read_text(encoding="ascii").split()]
        if not children:
            return process_id
        process_id = int(children[0])
