"""Export and import: a task's active version as one safetensors file, byte-identical after a round trip."""

import hashlib
from collections.abc import Mapping
from typing import final

import torch
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor

from app.codecs import check_counts, example_id, normalise_label
from app.core.errors import Malformed
from app.core.limits import Limits
from app.engine.scheduler import Engine
from app.engine.work import Work
from app.learners._base import EmbeddingLearner
from app.registry.records import ExampleFeatures, NewExample, NewTask, NewVersion, TaskRecord
from app.registry.repository import Registry
from app.services.admission import Admission
from app.services.archive import Archive, ArchivedExample, ArchivedVersion, read_archive
from app.services.builder import AnyLearner
from app.services.call import Call
from app.services.catalogue import Candidate, Catalogue, Kit
from app.services.directory import Directory
from app.services.tensors import dump_state, load_features, load_state, trace_of
from app.services.trial import BadExport, check_trace, trial_of
from app.services.workers import Workers


@final
class TransferService:
    """Moves tasks between servers that hold the same checkpoint."""

    def __init__(
        self,
        registry: Registry,
        engine: Engine,
        catalogue: Catalogue,
        directory: Directory,
        workers: Workers,
        limits: Limits,
        admission: Admission,
    ) -> None:
        self._registry = registry
        self._engine = engine
        self._catalogue = catalogue
        self._directory = directory
        self._workers = workers
        self._limits = limits
        self._admission = admission

    async def export(self, task_id: str) -> bytes:
        """The active version with its examples and, where they were kept, its inputs. No id, name or date is in it."""
        record = await self._directory.task(task_id)
        return await self._workers.store(self._export, record)

    async def import_(self, data: bytes, name: str | None, call: Call) -> TaskRecord:
        """Store an exported version as a new task. Raises `BadExport`, `Malformed`, `BackboneChanged`."""
        tensors, archive = await self._workers.decode(_read, data)
        kit, learner = await self._workers.decode(self._bound, archive)
        dim, stored_dim = kit.checkpoint.card.dim, archive.version.dim
        if dim not in (None, stored_dim) or stored_dim > self._limits.vector_dim:
            raise BadExport(f"The file's embeddings have {stored_dim} numbers, which {kit.name} does not give.")
        version = await self._workers.decode(_version, archive, tensors, self._limits)
        with self._admission.admitted(kit.name, None, 1):
            await self._try_state(kit, learner, version, tensors["features"], call)
        task = NewTask(
            name=name,
            backbone=kit.name,
            modality=kit.checkpoint.card.modality,
            learner_requested=archive.learner_requested,
            learner_settings_requested=dict(archive.learner_settings_requested),
            store_inputs=archive.store_inputs,
        )
        return await self._directory.create(task, version)

    def _bound(self, archive: Archive) -> tuple[Kit, AnyLearner]:
        """The checkpoint and the learner of the exported version, if they serve it here too."""
        catalogue, name, sha256 = self._catalogue, archive.version.learner, archive.backbone_sha256
        # As they stand in the file: what the card sets by default now may be more than the version was made with.
        settled = archive.version.learner_settings
        kit, learner = catalogue.bound_to(archive.backbone, name, settled, sha256)
        catalogue.check_served(kit, name)
        catalogue.candidates(kit, archive.learner_requested, archive.learner_settings_requested)
        catalogue.fitting(kit, [Candidate(name, settled, learner, sha256)], len(archive.version.labels))
        return kit, learner

    async def _try_state(
        self, kit: Kit, learner: AnyLearner, version: NewVersion, features: Tensor, call: Call
    ) -> None:
        """Score some of the support set with the state that came: it must give a finite number for every label."""
        trial = await self._workers.decode(trial_of, kit, learner, version, features)
        work = Work(
            backbone=kit.name,
            inputs=torch.empty(0),
            head=trial,
            deadline_s=call.deadline_s,
            head_examples=0 if isinstance(learner, EmbeddingLearner) else len(trial.rows),
        )
        if not call.timing.add(await self._engine.run(work)):
            raise BadExport("The file's state does not fit its learner, labels and embeddings.")

    def _export(self, record: TaskRecord) -> bytes:
        version = record.version
        examples = self._registry.example_features(record.id, version.number)
        tensors: dict[str, Tensor] = {
            f"state.{name}": tensor
            for name, tensor in load_state(self._registry.load_state(record.id, version.number)).items()
        }
        tensors["features"] = load_features([one.features for one in examples], version.dim)
        contents = self._registry.read_blobs({one.input_blob for one in examples if one.input_blob is not None})
        for sha256, content in contents.items():
            tensors[f"input.{sha256}"] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        return save(tensors, metadata={"imprint": _archive(record, examples).model_dump_json()})


def _archive(record: TaskRecord, examples: list[ExampleFeatures]) -> Archive:
    version = record.version
    return Archive(
        backbone=record.backbone,
        backbone_sha256=version.backbone_sha256,
        learner_requested=record.learner_requested,
        learner_settings_requested=dict(record.learner_settings_requested),
        store_inputs=record.store_inputs,
        version=ArchivedVersion(
            learner=version.learner,
            learner_settings=dict(version.learner_settings),
            labels=list(version.labels),
            dim=version.dim,
            selection=dict(version.selection) if version.selection is not None else None,
            held_out=dict(version.held_out) if version.held_out is not None else None,
            warnings=list(version.warnings),
            timing=dict(version.timing),
        ),
        examples=[
            ArchivedExample(
                label=one.label,
                content_sha256=one.content_sha256,
                media_type=one.media_type,
                size_bytes=one.size_bytes,
                truncated=one.truncated,
            )
            for one in examples
        ],
    )


def _read(data: bytes) -> tuple[dict[str, Tensor], Archive]:
    try:
        return read_archive(data)
    except SafetensorError as error:
        raise Malformed("The body is not a safetensors file.") from error


def _version(archive: Archive, tensors: Mapping[str, Tensor], limits: Limits) -> NewVersion:
    stored = archive.version
    check_counts(len(archive.examples), len(stored.labels), limits)
    if any(normalise_label(label, limits, "/version/labels") != label for label in stored.labels):
        raise BadExport("The file's labels are not in Unicode's normal form C.")
    features = tensors.get("features")
    if features is None or features.dtype != torch.float32 or features.shape != (len(archive.examples), stored.dim):
        raise BadExport(f"The file must hold float32 'features' of {len(archive.examples)} x {stored.dim}.")
    if not bool(features.isfinite().all()):
        raise BadExport("The file's features hold numbers that are not finite.")
    if stored.labels != sorted({one.label for one in archive.examples}) or len(stored.labels) < 2:
        raise BadExport("The file's labels are not those of its examples, in order.")
    new = tuple(
        _example(one, row, tensors.get(f"input.{one.content_sha256}"))
        for one, row in zip(archive.examples, features, strict=True)
    )
    if len({one.id for one in new}) != len(new):
        raise BadExport("The file holds the same example twice.")
    state = {name.removeprefix("state."): one for name, one in tensors.items() if name.startswith("state.")}
    check_trace(state)
    return NewVersion(
        change="imported",
        parent=None,
        backbone_sha256=archive.backbone_sha256,
        learner=stored.learner,
        learner_settings=stored.learner_settings,
        labels=tuple(stored.labels),
        dim=stored.dim,
        selection=stored.selection,
        held_out=stored.held_out,
        warnings=tuple(stored.warnings),
        timing=stored.timing,
        state=dump_state(state),
        example_ids=tuple(one.id for one in new),
        new_examples=new,
        adaptation=trace_of(state),
    )


def _example(one: ArchivedExample, features: Tensor, content: Tensor | None) -> NewExample:
    raw = None if content is None else content.numpy().tobytes()
    if raw is not None and hashlib.sha256(raw).hexdigest() != one.content_sha256:
        raise BadExport(f"An input of the label {one.label!r} does not have the hash that the file gives.")
    return NewExample(
        id=example_id(one.label, one.content_sha256),
        label=one.label,
        content_sha256=one.content_sha256,
        media_type=one.media_type,
        size_bytes=one.size_bytes,
        features=features.numpy().astype("<f4").tobytes(),
        content=raw,
        truncated=one.truncated,
    )
