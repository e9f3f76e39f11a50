"""Names of threads as the operating system shows them: `top -H` and `imprint bench` tell them apart by these."""

import threading
from pathlib import Path
from typing import Final

LONGEST: Final = 15
"""What Linux keeps of a name."""


def name_this_thread(name: str) -> None:
    """Give this thread a name in the system's eyes; threads that it starts inherit it. Linux only, else nothing."""
    try:
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text(name[:LONGEST], encoding="ascii")
    except OSError:  # another system, or a locked-down one: a name is no reason to fail
        return
