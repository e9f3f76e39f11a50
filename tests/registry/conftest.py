"""A registry in a temporary folder, and makers of what goes into it."""

import hashlib
import resource
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.registry.records import NewExample, NewTask, NewVersion
from app.registry.repository import Registry


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True)
class Make:
    """Makers of new records; each has defaults for everything."""

    dim: int = 4

    def example(self, label: str, content: bytes, *, store: bool = True) -> NewExample:
        sha256 = _sha256(content)
        return NewExample(
            id="ex_" + _sha256(label.encode() + b"\0" + sha256.encode())[:24],
            label=label,
            content_sha256=sha256,
            media_type="text/plain",
            size_bytes=len(content),
            features=struct.pack("<4f", *hashlib.sha256(content).digest()[:4]),
            content=content if store else None,
            truncated=False,
        )

    def task(self, name: str | None = None, **fields: object) -> NewTask:
        task = NewTask(
            name=name,
            backbone="vector-identity",
            modality="vector",
            learner_requested="auto",
            learner_settings_requested={},
            store_inputs=True,
        )
        return replace(task, **fields)

    def version(self, *examples: NewExample, kept: tuple[NewExample, ...] = (), **fields: object) -> NewVersion:
        """A version of the new `examples` and of those `kept` that are stored already."""
        members = examples + kept
        version = NewVersion(
            change="created",
            parent=None,
            backbone_sha256="b" * 64,
            learner="protonet",
            learner_settings={"temperature": 1.0},
            labels=tuple(sorted({example.label for example in members})),
            dim=self.dim,
            selection=None,
            held_out=None,
            warnings=(),
            timing={"total_s": 0.25},
            state=b"state",
            example_ids=tuple(example.id for example in members),
            new_examples=examples,
        )
        return replace(version, **fields)

    def pair(self) -> tuple[NewExample, NewExample]:
        """The smallest support set: a cat and a dog."""
        return self.example("cat", b"miaow"), self.example("dog", b"woof")


@pytest.fixture
def make() -> Make:
    return Make()


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def pass_time(self, **units: float) -> None:
        self.now += timedelta(**units)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def open_registry(tmp_path: Path, clock: Clock) -> Iterator[Callable[..., Registry]]:
    """Opens registries on one database and one folder of blobs; each is closed after the test."""
    opened: list[Registry] = []

    def open_one(*, migrate: bool = True, busy_timeout_s: float = 5.0, folder: str = "data") -> Registry:
        registry = Registry(
            f"sqlite:///{tmp_path / folder}/imprint.sqlite",
            tmp_path / folder,
            busy_timeout_s=busy_timeout_s,
            clock=clock,
        )
        opened.append(registry)
        if migrate:
            registry.migrate()
        return registry

    yield open_one
    for registry in opened:
        registry.close()


@pytest.fixture
def registry(open_registry: Callable[..., Registry]) -> Registry:
    return open_registry()


@contextmanager
def _file_size_limit(size_bytes: int) -> Iterator[None]:
    """No file of this process may grow beyond the size: a full disk that needs no disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def file_size_limit() -> Callable[[int], AbstractContextManager[None]]:
    return _file_size_limit
