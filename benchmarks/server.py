"""A server of the benchmark's own, in a process of its own."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from app.demo.show import LOG, free_port, start_server, stop, wait_until_ready


@contextmanager
def running(**settings: str) -> Iterator[httpx.Client]:
    """A client of a fresh server; keyword arguments are settings."""
    os.environ.update({f"IMPRINT_{name.upper()}": value for name, value in settings.items()})
    with tempfile.TemporaryDirectory(prefix="imprint-bench-") as scratch:
        port = free_port(0)
        process = start_server(port, Path(scratch))
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until_ready(url, process, Path(scratch) / LOG)
            with httpx.Client(base_url=url, timeout=600) as client:
                yield client
        finally:
            stop(process)


def posted(client: httpx.Client, url: str, body: object) -> dict[str, object]:
    """POST JSON; the answer must be a success."""
    response = client.post(url, json=body)
    if response.is_error:
        raise RuntimeError(f"{url}: {response.status_code} {response.text[:500]}")
    answer: dict[str, object] = response.json()
    return answer
