"""The load generator as the benchmarks see it: a process that runs one plan after the other."""

from collections.abc import Collection, Sequence
from dataclasses import asdict
from types import TracebackType
from typing import final

from benchmarks.pipe import Waiting
from benchmarks.plan import Answers, Outcome, Plan


@final
class Generator:
    """Sends the bodies of its pool, each in its turn."""

    def __init__(self, bodies: Sequence[bytes] = (b"",), cores: Collection[int] | None = None) -> None:
        self._process = Waiting("benchmarks.load", cores=cores)
        self.pool(bodies)

    def __enter__(self) -> "Generator":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.__exit__(kind, error, trace)

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def pool(self, bodies: Sequence[bytes]) -> None:
        """What the next plans send."""
        self._process.ask(None, bodies)

    def run(self, plan: Plan) -> Outcome:
        """Run a plan to its end."""
        answer = self._process.ask(asdict(plan))
        streams = {
            stream: {status: Answers(**found) for status, found in statuses.items()}
            for stream, statuses in answer["streams"].items()
        }
        return Outcome(**{**answer, "streams": streams})
