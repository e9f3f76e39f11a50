"""Every way a request can fail, by name.

An error knows its stable `code`, a sentence for the person who reads it and, where one field is at
fault, a JSON pointer (RFC 6901) to it. What HTTP status it becomes is decided at the edge
(`app/api/errors.py`), by its family: the direct subclasses of `ImprintError`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Fault:
    """One thing wrong with one field: `pointer` is a JSON pointer into the request."""

    pointer: str
    detail: str
    code: str = "invalid"


class ImprintError(Exception):
    """A failure with a name.

    `detail` is shown to the caller: it holds no path, no SQL and no traceback.
    """

    code: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "Internal error"

    def __init__(
        self,
        detail: str,
        *,
        pointer: str | None = None,
        faults: Sequence[Fault] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.faults = list(faults)
        if pointer is not None:
            self.faults.append(Fault(pointer, detail, self.code))
        self.retry_after_s = retry_after_s


# Families: each has one HTTP status.


class Malformed(ImprintError):
    """The bytes cannot be read at all: broken JSON, a broken zip, an empty body."""

    code = "malformed-request"
    title = "The request cannot be read"


class Invalid(ImprintError):
    """Readable, but not a valid request."""

    code = "invalid-request"
    title = "The request is not valid"


class NotFound(ImprintError):
    """Nothing has that name or id."""

    code = "not-found"
    title = "Not found"


class Gone(ImprintError):
    """It was there and was deleted."""

    code = "gone"
    title = "Deleted"


class Conflict(ImprintError):
    """The request fits no longer with what is stored."""

    code = "conflict"
    title = "Conflict"


class PreconditionFailed(ImprintError):
    """`If-Match` names another version than the stored one."""

    code = "precondition-failed"
    title = "It has changed since you read it"


class TooLarge(ImprintError):
    """More bytes, pixels or items than the limits (`GET /v1/limits`) allow."""

    code = "too-large"
    title = "Over a limit"


class UnsupportedMedia(ImprintError):
    """A format that is not read here."""

    code = "unsupported-media"
    title = "Unsupported format"


class Busy(ImprintError):
    """The queue is full; come back in `retry_after_s`."""

    code = "queue-full"
    title = "Busy"


class Unavailable(ImprintError):
    """A part that the request needs is down for now."""

    code = "unavailable"
    title = "Temporarily unavailable"


class DeadlinePassed(ImprintError):
    """The answer would come after the deadline."""

    code = "deadline-passed"
    title = "Deadline passed"


class StorageFull(ImprintError):
    """There is no room left to store what was sent."""

    code = "storage-full"
    title = "Storage full"


# Members that several layers raise. One that a single layer raises lives with it.


class TooFewLabels(Invalid):
    """A classifier needs two labels to tell apart."""

    code = "too-few-labels"
    title = "Too few labels"

    def __init__(self, *, way: int, pointer: str | None = None) -> None:
        super().__init__(f"A classifier needs at least 2 labels; {way} given.", pointer=pointer)


class EmptyClass(Invalid):
    """A label without an example."""

    code = "empty-class"
    title = "A label has no examples"

    def __init__(self, *, label: str, pointer: str | None = None) -> None:
        super().__init__(f"The label {label!r} has no examples.", pointer=pointer)


class UnknownName(Invalid):
    """A name in a request body that nothing here carries (a backbone, a learner)."""

    code = "unknown-name"
    title = "Unknown name"

    def __init__(self, *, kind: str, name: str, known: Sequence[str], pointer: str) -> None:
        choices = ", ".join(sorted(known))
        super().__init__(f"There is no {kind} {name!r}; choose one of: {choices}.", pointer=pointer)


class InvalidSetting(Invalid):
    """A learner's setting that is unknown or out of range."""

    code = "invalid-setting"
    title = "Invalid setting"


class BackboneChanged(Conflict):
    """The stored state belongs to other weights than those now loaded under the same name."""

    code = "backbone-mismatch"
    title = "The backbone has changed"

    def __init__(self, *, backbone: str, stored_sha256: str, loaded_sha256: str | None) -> None:
        now = f"is now {loaded_sha256[:12]}" if loaded_sha256 else "is not loaded"
        super().__init__(
            f"This task was adapted on the backbone {backbone!r} with sha256 {stored_sha256[:12]}, which {now}. "
            "Put the former checkpoint back, or create the task again from its examples."
        )
