"""Becomes a module that runs in another interpreter: `python -m benchmarks.peer_servers.launch PYTHON LOG MODULE ...`.

So that `benchmarks.pipe.Waiting`, which starts this interpreter, can wait for one of a peer's environment. The standard
error goes into the log: peers draw their progress there.
"""

import os
import sys
from pathlib import Path


def main() -> None:
    """Become it."""
    python, log, module, *arguments = sys.argv[1:]
    with Path(log).open("ab") as stream:
        os.dup2(stream.fileno(), sys.stderr.fileno())
    # Everything is there: a peer that would download something shall fail instead.
    offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    os.execve(python, [python, "-m", module, *arguments], dict(os.environ) | offline)  # noqa: S606 - a peer's own


if __name__ == "__main__":
    main()
