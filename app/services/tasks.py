"""Use cases on tasks: create, read, rename, update online, roll back, delete."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import final

from app.codecs import RawExample, check_labels, normalise_label
from app.core.errors import Invalid, NotFound, PreconditionFailed
from app.core.limits import Limits
from app.registry.records import ExampleFeatures, ExampleRecord, NewTask, Page, TaskRecord, VersionRecord
from app.registry.repository import Registry
from app.services.adaptation import Adaptation, Recipe
from app.services.admission import Admission
from app.services.call import Call
from app.services.catalogue import Candidate, Catalogue, Kit
from app.services.directory import Directory
from app.services.pieces import decoded_ahead, fresh_in_pieces
from app.services.support_sets import InputsNotStored, ReadInputs, SupportSet, check_adaptable, extended, reduced
from app.services.workers import Workers


class LabelNotFound(NotFound):
    """The task's active version has no such label."""

    code = "label-not-found"
    title = "No such label"


class ExampleNotFound(Invalid):
    """The task's active version has no such example."""

    code = "example-not-found"
    title = "No such example"


@final
class TaskService:
    """Everything that changes or shows a stored task."""

    def __init__(
        self,
        registry: Registry,
        catalogue: Catalogue,
        adaptation: Adaptation,
        directory: Directory,
        workers: Workers,
        limits: Limits,
        admission: Admission,
    ) -> None:
        self._registry = registry
        self._catalogue = catalogue
        self._adaptation = adaptation
        self._directory = directory
        self._workers = workers
        self._limits = limits
        self._admission = admission

    async def create(self, name: str | None, recipe: Recipe, raws: Sequence[RawExample], call: Call) -> TaskRecord:
        """Adapt a classifier to labelled examples and store it."""
        kit = self._catalogue.kit(recipe.backbone)

        # In a thread, as to build a learner for the first time takes a while.
        choosable = partial(self._catalogue.candidates, kit, recipe.learner, recipe.learner_settings)
        with self._admission.admitted(kit.name, None, len(raws), call.timing.computed):
            with call.timing.measure("decode_s"):
                candidates, support = await fresh_in_pieces(self._workers, kit.codec, raws, self._limits, choosable)
            version = await self._adaptation.version(
                kit, candidates, support, call, store_inputs=recipe.store_inputs, change="created"
            )
        task = NewTask(
            name=name,
            backbone=kit.name,
            modality=kit.checkpoint.card.modality,
            learner_requested=recipe.learner,
            learner_settings_requested=dict(recipe.learner_settings),
            store_inputs=recipe.store_inputs,
        )
        return await self._directory.create(task, version)

    async def get(self, task_id: str) -> TaskRecord:
        """A task with its active version. Raises `TaskNotFound`, `TaskDeleted`."""
        return await self._directory.task(task_id)

    def check_room(self, task_id: str) -> None:
        """Refuse work for a task before its body is read, as far as no query is needed. Raises `Busy`."""
        record = self._directory.known(task_id)
        if record is not None:
            self._admission.check(record.backbone, task_id)

    async def page(
        self, cursor: str | None, limit: int, label: str | None = None, name: str | None = None
    ) -> Page[TaskRecord]:
        """Tasks, newest first; those whose active version has the label, or that have the name."""
        return await self._workers.store(self._registry.tasks, cursor, limit, label, name)

    async def versions(self, task_id: str, cursor: str | None, limit: int) -> Page[VersionRecord]:
        """A task's versions, newest first."""
        await self._directory.task(task_id)
        return await self._workers.store(self._registry.versions, task_id, cursor, limit)

    async def examples(
        self, task_id: str, version: int | None, cursor: str | None, limit: int, label: str | None
    ) -> Page[ExampleRecord]:
        """The examples of a version, the active one by default."""
        record = await self._directory.task(task_id)
        number = version if version is not None else record.active_version
        return await self._workers.store(self._registry.examples, task_id, number, cursor, limit, label)

    async def rename(self, task_id: str, name: str | None, if_match: str | None) -> TaskRecord:
        """Give a task another name, or none."""
        async with self._directory.lock(task_id):
            record = await self._expected(task_id, if_match)
            change = partial(self._registry.rename_task, task_id, name, record.revision)
            return await self._directory.change(task_id, change)

    async def delete(self, task_id: str, if_match: str | None) -> None:
        """Delete a task: from then on it is gone (410)."""
        async with self._directory.lock(task_id):
            record = await self._expected(task_id, if_match)
            await self._directory.delete(task_id, partial(self._registry.delete_task, task_id, record.revision))

    async def activate(self, task_id: str, number: int, if_match: str | None) -> TaskRecord:
        """Serve another version from now on."""
        async with self._directory.lock(task_id):
            record = await self._expected(task_id, if_match)
            change = partial(self._registry.activate, task_id, number, record.revision)
            return await self._directory.change(task_id, change)

    async def add_examples(
        self, task_id: str, raws: Sequence[RawExample], if_match: str | None, call: Call
    ) -> TaskRecord:
        """A version with these examples added; examples that are there already change nothing."""
        if not raws:
            raise Invalid("There is no example to add.", pointer="/support")
        async with self._directory.lock(task_id):
            record = await self._expected(task_id, if_match)
            kit, candidates = await self._workers.decode(self._bound, record)
            known = await self._known(record)
            read = self._reader(candidates, known)
            with self._admission.admitted(kit.name, task_id, len(raws), call.timing.computed):
                with call.timing.measure("decode_s"):
                    dim = record.version.dim if kit.checkpoint.card.dim is None else None
                    codec = kit.codec.expecting(dim)
                    inputs = await decoded_ahead(self._workers, task_id, codec, raws, self._limits, check_labels)
                    support = await self._workers.decode_for(
                        task_id, extended, codec, known, raws, self._limits, read, inputs
                    )
                if not support.new:
                    return record
                return await self._update(record, kit, candidates, support, call, "examples-added")

    async def remove_examples(
        self, task_id: str, example_ids: Sequence[str], if_match: str | None, call: Call
    ) -> TaskRecord:
        """A version without these examples. Raises `ExampleNotFound`, `TooFewLabels`."""
        unwanted = set(example_ids)

        def keep(known: list[ExampleFeatures]) -> list[ExampleFeatures]:
            missing = sorted(unwanted - {one.id for one in known})
            if missing:
                raise ExampleNotFound(f"The active version has no example {missing[0]!r}.", pointer="/example_id")
            return [one for one in known if one.id not in unwanted]

        return await self._reduce(task_id, keep, if_match, call, "examples-removed")

    async def remove_label(self, task_id: str, label: str, if_match: str | None, call: Call) -> TaskRecord:
        """A version without this label and its examples. Raises `LabelNotFound`, `TooFewLabels`."""

        def keep(known: list[ExampleFeatures]) -> list[ExampleFeatures]:
            wanted = normalise_label(label, self._limits, "/label")
            rest = [one for one in known if one.label != wanted]
            if len(rest) == len(known):
                raise LabelNotFound(f"The active version has no label {wanted!r}.")
            return rest

        return await self._reduce(task_id, keep, if_match, call, "label-removed")

    async def _reduce(
        self,
        task_id: str,
        keep: Callable[[list[ExampleFeatures]], list[ExampleFeatures]],
        if_match: str | None,
        call: Call,
        change: str,
    ) -> TaskRecord:
        async with self._directory.lock(task_id):
            record = await self._expected(task_id, if_match)
            kit, candidates = await self._workers.decode(self._bound, record)
            kept = keep(await self._known(record))
            read = self._reader(candidates, kept)
            with self._admission.admitted(kit.name, task_id, 1):
                with call.timing.measure("decode_s"):
                    support = await self._workers.decode_for(task_id, reduced, kit.codec, kept, read)
                return await self._update(record, kit, candidates, support, call, change)

    async def _update(
        self,
        record: TaskRecord,
        kit: Kit,
        candidates: Sequence[Candidate],
        support: SupportSet,
        call: Call,
        change: str,
    ) -> TaskRecord:
        version = await self._adaptation.version(
            kit,
            candidates,
            support,
            call,
            store_inputs=record.store_inputs,
            change=change,
            parent=record.active_version,
            task=record.id,
        )
        store = partial(self._registry.add_version, record.id, version, record.revision)
        return await self._directory.change(record.id, store)

    async def _expected(self, task_id: str, if_match: str | None) -> TaskRecord:
        record = await self._directory.task(task_id)
        wanted = None if if_match is None else {one.strip() for one in if_match.split(",")}
        if wanted is not None and not wanted & {"*", record.etag}:
            raise PreconditionFailed(f"The task is now at {record.etag}; you sent If-Match {if_match}.")
        return record

    def _bound(self, record: TaskRecord) -> tuple[Kit, list[Candidate]]:
        """The checkpoint that the task is bound to, and the learners that an update tries."""
        kit, _ = self._catalogue.bound(record)
        return kit, self._catalogue.candidates(kit, record.learner_requested, record.learner_settings_requested)

    def _reader(self, candidates: Sequence[Candidate], known: Sequence[ExampleFeatures]) -> ReadInputs | None:
        """What reads the stored inputs, where a candidate needs them. Raises `InputsNotStored`, `TooManyToAdapt`."""
        needing = [one.name for one in candidates if one.adapts_weights]
        if not needing:
            return None
        if any(one.input_blob is None for one in known):
            raise InputsNotStored(learner=needing[0])
        check_adaptable(len(known), self._limits)
        return self._registry.read_blobs

    async def _known(self, record: TaskRecord) -> list[ExampleFeatures]:
        return await self._workers.store(self._registry.example_features, record.id, record.active_version)
