"""What goes into the registry and what comes out: plain frozen values, never a database row."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, TypeAlias, TypeVar

Json: TypeAlias = Mapping[str, object]
"""A JSON object: string keys; values of JSON's own types, without NaN or infinity."""

T = TypeVar("T")


@dataclass(frozen=True)
class Page(Generic[T]):
    """One page of a list. `next_cursor` is `None` on the last."""

    items: tuple[T, ...]
    next_cursor: str | None


@dataclass(frozen=True)
class NewTask:
    """A task to store. `learner_requested` may be "auto"."""

    name: str | None
    backbone: str
    modality: str
    learner_requested: str
    learner_settings_requested: Json
    store_inputs: bool


@dataclass(frozen=True)
class NewExample:
    """An example to store. `features` are float32, little-endian; `content` is `None` where inputs are not stored.

    `content` must have the hash `content_sha256`.
    """

    id: str
    label: str
    content_sha256: str
    media_type: str
    size_bytes: int
    features: bytes = field(repr=False)
    content: bytes | None = field(repr=False)
    truncated: bool


@dataclass(frozen=True)
class NewVersion:
    """A version to store. `example_ids` is the whole membership; `new_examples` those not stored before.

    `labels` are exactly the labels of the members; `state` is safetensors. `adaptation` is the trace of an inner
    loop, where the learner has one.
    """

    change: str
    parent: int | None
    backbone_sha256: str
    learner: str
    learner_settings: Json
    labels: tuple[str, ...]
    dim: int
    selection: Json | None
    held_out: Json | None
    warnings: tuple[object, ...]
    timing: Json
    state: bytes = field(repr=False)
    example_ids: tuple[str, ...] = field(repr=False)
    new_examples: tuple[NewExample, ...] = field(repr=False)
    adaptation: Json | None = None


@dataclass(frozen=True)
class VersionRecord:
    """A stored version, without its state. `shots` counts examples by label, in the labels' order."""

    task_id: str
    number: int
    parent: int | None
    change: str
    created_at: datetime
    backbone_sha256: str
    learner: str
    learner_settings: Json
    shots: Mapping[str, int]
    dim: int
    selection: Json | None
    held_out: Json | None
    warnings: tuple[object, ...]
    timing: Json
    state_size_bytes: int
    adaptation: Json | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, sorted by code point: the columns of the state."""
        return tuple(self.shots)

    @property
    def example_count(self) -> int:
        """How many examples the version was fitted on."""
        return sum(self.shots.values())


@dataclass(frozen=True)
class TaskRecord:
    """A live task with its active version. `revision` grows with every write to the task."""

    id: str
    name: str | None
    backbone: str
    modality: str
    learner_requested: str
    learner_settings_requested: Json
    store_inputs: bool
    active_version: int
    revision: int
    created_at: datetime
    updated_at: datetime
    version: VersionRecord

    @property
    def etag(self) -> str:
        """An HTTP entity tag, with its quotes."""
        return f'"{self.active_version}.{self.revision}"'


@dataclass(frozen=True)
class ExampleRecord:
    """A stored example. `input_blob` is the hash to read its input by, where it was stored."""

    id: str
    label: str
    content_sha256: str
    media_type: str
    size_bytes: int
    input_blob: str | None
    truncated: bool
    created_at: datetime


@dataclass(frozen=True)
class ExampleFeatures:
    """A version's example with its embedding: float32, little-endian."""

    id: str
    label: str
    content_sha256: str
    features: bytes = field(repr=False)
    media_type: str
    truncated: bool
    size_bytes: int
    input_blob: str | None


@dataclass(frozen=True)
class NewPrediction:
    """A prediction to record. `content` is `None` where inputs are not stored."""

    task_id: str
    version: int
    input_sha256: str
    media_type: str
    content: bytes | None = field(repr=False)
    result: Json


@dataclass(frozen=True)
class PredictionRecord:
    """A recorded prediction: `result` is the item as it was answered."""

    id: str
    task_id: str
    version: int
    created_at: datetime
    input_sha256: str
    media_type: str
    input_blob: str | None
    result: Json


@dataclass(frozen=True)
class Replay:
    """The stored answer to a request that was made before under the same idempotency key."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
