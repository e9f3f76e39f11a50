"""Tasks, versions and examples over HTTP."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from pydantic import Field, Json, StringConstraints

from app.api.schemas.inputs import Strict, SupportIn
from app.registry.records import ExampleRecord, TaskRecord, VersionRecord
from app.services.adaptation import Recipe

Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]


TRACE = "Of a learner with an inner loop: how the loss on the support set fell; null for others."


class AdaptationOut(Strict):
    """The trace of an inner loop."""

    support_losses: list[float] = Field(
        description="The support set's loss before each step and after the last, in nats."
    )


class AdaptOptions(Strict):
    """How a classifier is adapted."""

    backbone: str = Field(description="One of GET /v1/backbones.")
    learner: str = Field(
        "auto",
        description="One of GET /v1/learners that the backbone serves, or auto: of those that work on embeddings, the "
        "best by held-out accuracy.",
    )
    learner_settings: dict[str, Any] = Field({}, description="Settings of the named learner.")

    def recipe(self, *, store_inputs: bool = False) -> Recipe:
        """What the services take."""
        return Recipe(self.backbone, self.learner, self.learner_settings, store_inputs)


class TaskOptions(AdaptOptions):
    """What a new task is called, how it is adapted and what is kept."""

    name: Name | None = Field(None, description="A name that no other task has.")
    store_inputs: bool = Field(True, description="Keep the examples themselves, not only their embeddings.")


class TaskIn(TaskOptions):
    """The body of POST /v1/tasks."""

    support: SupportIn = Field(description="Labelled examples: a list of objects, or a map from label to inputs.")


class TaskQuery(Strict):
    """The options of POST /v1/tasks beside a multipart or zip body."""

    name: Name | None = None
    backbone: str | None = None
    learner: str = "auto"
    learner_settings: Json[dict[str, Any]] | None = Field(None, description="A JSON object.")
    store_inputs: bool = True


class ExamplesIn(Strict):
    """The body of POST /v1/tasks/{id}/examples."""

    support: SupportIn


class TaskPatch(Strict):
    """The body of PATCH /v1/tasks/{id}."""

    name: Name | None = Field(description="The new name; null for none.")


class TaskOut(Strict):
    """A stored task with its active version."""

    id: str
    name: str | None
    backbone: str
    modality: str
    store_inputs: bool
    learner_requested: str
    learner_settings_requested: Mapping[str, Any]
    created_at: datetime
    updated_at: datetime
    version: int
    parent: int | None
    change: str
    version_created_at: datetime
    backbone_sha256: str
    learner: str
    learner_settings: Mapping[str, Any]
    labels: list[str]
    shots: Mapping[str, int]
    examples: int
    dim: int
    held_out: Mapping[str, Any] | None = Field(
        description="Accuracy on examples that the head was not fitted on, and how they were held out."
    )
    selection: Mapping[str, Any] | None = Field(description="For auto: each learner's score, the choice, and why.")
    adaptation: AdaptationOut | None = Field(description=TRACE)
    warnings: list[Any]
    timing: Mapping[str, Any] = Field(description="Milliseconds of the adaptation.")


class TaskSummary(Strict):
    """A task in a list."""

    id: str
    name: str | None
    backbone: str
    modality: str
    learner: str
    version: int
    way: int
    examples: int
    held_out_accuracy: float | None
    created_at: datetime
    updated_at: datetime


class TaskPage(Strict):
    """One page of tasks."""

    tasks: list[TaskSummary]
    next_cursor: str | None


class VersionOut(Strict):
    """One version of a task."""

    version: int
    active: bool
    parent: int | None
    change: str
    created_at: datetime
    backbone_sha256: str
    learner: str
    learner_settings: Mapping[str, Any]
    shots: Mapping[str, int]
    examples: int
    held_out: Mapping[str, Any] | None
    adaptation: AdaptationOut | None = Field(description=TRACE)
    state_size_bytes: int


class VersionPage(Strict):
    """One page of versions, newest first."""

    versions: list[VersionOut]
    next_cursor: str | None


class ExampleOut(Strict):
    """One example of a version."""

    id: str
    label: str
    content_sha256: str
    media_type: str
    size_bytes: int
    stored: bool
    truncated: bool
    created_at: datetime


class ExamplePage(Strict):
    """One page of examples."""

    examples: list[ExampleOut]
    next_cursor: str | None


def adaptation_out(stored: Mapping[str, Any] | None) -> AdaptationOut | None:
    """A trace as it is shown."""
    return None if stored is None else AdaptationOut(support_losses=stored["support_losses"])


def task_out(record: TaskRecord) -> TaskOut:
    """A task as it is shown."""
    version = record.version
    return TaskOut.model_construct(
        id=record.id,
        name=record.name,
        backbone=record.backbone,
        modality=record.modality,
        store_inputs=record.store_inputs,
        learner_requested=record.learner_requested,
        learner_settings_requested=record.learner_settings_requested,
        created_at=record.created_at,
        updated_at=record.updated_at,
        version=version.number,
        parent=version.parent,
        change=version.change,
        version_created_at=version.created_at,
        backbone_sha256=version.backbone_sha256,
        learner=version.learner,
        learner_settings=version.learner_settings,
        labels=list(version.labels),
        shots=version.shots,
        examples=version.example_count,
        dim=version.dim,
        held_out=version.held_out,
        selection=version.selection,
        adaptation=adaptation_out(version.adaptation),
        warnings=list(version.warnings),
        timing=version.timing,
    )


def task_summary(record: TaskRecord) -> TaskSummary:
    """A task as a list shows it."""
    version = record.version
    accuracy = (version.held_out or {}).get("accuracy")
    return TaskSummary(
        id=record.id,
        name=record.name,
        backbone=record.backbone,
        modality=record.modality,
        learner=version.learner,
        version=version.number,
        way=len(version.labels),
        examples=version.example_count,
        held_out_accuracy=accuracy if isinstance(accuracy, float) else None,
        created_at=record.created_at,
        updated_at=record.updated_at,
    )


def version_out(record: VersionRecord, active: int) -> VersionOut:
    """A version as it is shown."""
    return VersionOut(
        version=record.number,
        active=record.number == active,
        parent=record.parent,
        change=record.change,
        created_at=record.created_at,
        backbone_sha256=record.backbone_sha256,
        learner=record.learner,
        learner_settings=record.learner_settings,
        shots=record.shots,
        examples=record.example_count,
        held_out=record.held_out,
        adaptation=adaptation_out(record.adaptation),
        state_size_bytes=record.state_size_bytes,
    )


def example_out(record: ExampleRecord) -> ExampleOut:
    """An example as it is shown."""
    return ExampleOut(
        id=record.id,
        label=record.label,
        content_sha256=record.content_sha256,
        media_type=record.media_type,
        size_bytes=record.size_bytes,
        stored=record.input_blob is not None,
        truncated=record.truncated,
        created_at=record.created_at,
    )
