"""wrk as a load generator: little CPU a request, so that it does not bind where a server answers thousands a second.

It is a package of Debian and of others (`apt-get install wrk`). Where it is not installed, our own generator loads the
server, and a note says so: it takes several times as much CPU a request.
"""

import json
import shutil
import subprocess
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.pipe import pinned
from benchmarks.plan import Answers, Outcome

SCRIPT: Final = """
local requests, turn = {}, 0
function init()
  for line in io.lines(wrk.headers["X-Bodies"]) do
    requests[#requests + 1] = wrk.format("POST", nil, {["Content-Type"] = "application/json"}, line)
  end
end
function request()
  turn = turn % #requests + 1
  return requests[turn]
end
function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '\\n{"requests": %d, "duration_us": %d, "bad": %d, "lost": %d, "p50_us": %d, "p99_us": %d, "most_us": %d}\\n',
    summary.requests, summary.duration, e.status, e.connect + e.read + e.write + e.timeout,
    latency:percentile(50), latency:percentile(99), latency.max))
end
"""


def installed() -> bool:
    """Is wrk here?"""
    return shutil.which("wrk") is not None


def run(
    url: str, bodies: Sequence[bytes], clients: int, seconds: float, folder: Path, cores: Collection[int] | None
) -> Outcome:
    """POST JSON bodies, each one line, in turn, from one thread. Raises: `CalledProcessError`."""
    script, lines = folder / "requests.lua", folder / "bodies.jsonl"
    script.write_text(SCRIPT)
    lines.write_bytes(b"\n".join(bodies) + b"\n")
    whole_s = max(1, round(seconds))
    command = ["wrk", "-t1", f"-c{clients}", f"-d{whole_s}s", "-s", str(script), "-H", f"X-Bodies: {lines}", url]
    with pinned(cores):
        printed = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - our own command
    return outcome_of(json.loads(printed.stdout.strip().splitlines()[-1]))


def outcome_of(said: dict[str, Any]) -> Outcome:
    """What wrk says, as our own generator says it."""
    good = said["requests"] - said["bad"]
    answers = Answers(good, good, said["p50_us"] / 1000, said["p99_us"] / 1000, said["most_us"] / 1000, 0)
    bad = Answers(said["bad"], said["bad"], 0.0, 0.0, 0.0, 0)
    statuses = {"200": answers} | ({"400": bad} if said["bad"] else {})
    lost = {"lost": said["lost"]} if said["lost"] else {}
    return Outcome(said["duration_us"] / 1e6, 0.0, lost, 0, {"": statuses})
