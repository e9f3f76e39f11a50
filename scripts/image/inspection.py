"""What the built image must be: who it runs as, what it holds, what it may write."""

from collections.abc import Mapping
from typing import Any

from scripts.image.engine import USER_ID, Engine, EngineError, say

WRITABLE = {"/data", "/tmp", "/var/tmp", "/run/lock", "/var/lock"}
BUILD_TOOLS = ("gcc", "cc", "g++", "make", "ld", "pip")

LIST_FAST = "from app.engine.executors.choose import COMPILED, installed; print(*filter(installed, COMPILED))"

FIND_CACHES = "find / -xdev -path '*/.cache/pip' 2>/dev/null || true"
FIND_WRITABLE = (
    "find / -xdev -writable \\( -type d -o -type f \\) "
    "-not -path '/proc/*' -not -path '/sys/*' -not -path '/dev/*' 2>/dev/null || true"
)


def check_configuration(configuration: Mapping[str, Any]) -> None:
    """Raises `EngineError` unless user, command, port, volume and healthcheck are as the Dockerfile says."""
    _expect(configuration["User"] == f"{USER_ID}:{USER_ID}", f"the image's user is {configuration['User']!r}")
    _expect(configuration["Cmd"] == ["imprint", "serve"], f"the image's command is {configuration['Cmd']}")
    _expect("8000/tcp" in configuration["ExposedPorts"], "port 8000 is not exposed")
    _expect("/data" in configuration["Volumes"], "/data is no volume")
    _expect(configuration["Healthcheck"]["Test"][0] == "CMD", "there is no healthcheck")


def check_inside(engine: Engine) -> None:
    """Raises `EngineError` unless it runs as the fixed user, without build tools, and writes only its data."""
    user = engine.run(["id", "-u"]).strip()
    _expect(user == str(USER_ID), f"the container runs as user {user}")
    look = "; ".join(f"command -v {tool} || true" for tool in BUILD_TOOLS)
    tools = engine.run(["sh", "-c", look]).split()
    _expect(not tools, f"the image holds build tools: {tools}")
    caches = engine.run(["sh", "-c", FIND_CACHES]).split()
    _expect(not caches, f"the image holds pip caches: {caches}")
    writable = set(engine.run(["sh", "-c", FIND_WRITABLE]).split())
    _expect("/data" in writable, "the server cannot write /data")
    _expect(writable <= WRITABLE, f"the server could write {sorted(writable - WRITABLE)[:10]}")
    fast = engine.run(["python", "-c", LIST_FAST]).split()
    _expect(fast == ["onnxruntime", "openvino"], f"of what runs backbones fast, the image holds {fast}")
    say(f"runs as user {user}, has no build tools, writes nowhere but {', '.join(sorted(writable))}")


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise EngineError(otherwise)
