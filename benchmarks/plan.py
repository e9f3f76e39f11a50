"""What a load generator is asked for, and what it answers. Apart, because the generator loads nothing large."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Stream:
    """Requests of one kind. They take the bodies of the generator's pool in turn, and go on where the last ended."""

    paths: Sequence[str]
    weights: Sequence[float] | None = None
    """How often each path is drawn; without weights they come in turn."""
    rate: float | None = None
    """Requests a second, at random instants (Poisson), whatever the answers do: an open loop."""
    clients: int = 0
    """Connections that each send the next request when they have the answer: a closed loop."""
    name: str = ""


@dataclass(frozen=True)
class Plan:
    """One run: a single closed loop, or any number of open ones."""

    port: int
    content_type: str
    streams: Sequence[Stream]
    seconds: float = 0.0
    """How long answers count. The loop starts `warm_s` earlier."""
    warm_s: float = 0.0
    total: int | None = None
    """A closed loop may end after so many requests instead."""
    grace_s: float = 0.0
    """How long an open loop waits afterwards for what it has not got; then it hangs up."""
    seed: int = 0


@dataclass(frozen=True)
class Answers:
    """Those of one stream with one status."""

    count: int
    counted: int
    """Those that came in the seconds that count."""
    p50_ms: float
    p99_ms: float
    most_ms: float
    retry_after: int
    """How many had the header."""


@dataclass(frozen=True)
class Outcome:
    """What came of a plan. In an open loop a latency begins at the instant at which the request was due."""

    seconds: float
    """That count; of a loop with a total, from the first request to the last answer."""
    late_p99_ms: float
    """How late an open loop was to send: its own fault, and a part of the latencies."""
    lost: Mapping[str, int]
    """Connections that ended without an answer, by what ended them."""
    unanswered: int
    streams: Mapping[str, Mapping[str, Answers]] = field(default_factory=dict)
    """By stream, then by status."""

    def of(self, status: int, stream: str = "") -> Answers:
        """The answers of a stream with a status; maybe none."""
        nothing = Answers(0, 0, float("nan"), float("nan"), float("nan"), 0)
        return self.streams.get(stream, {}).get(str(status), nothing)

    @property
    def finished(self) -> int:
        """Answers with any status."""
        return sum(one.count for statuses in self.streams.values() for one in statuses.values())

    @property
    def failed(self) -> int:
        """Answers that are no success, and connections that were lost."""
        bad = (one.count for statuses in self.streams.values() for code, one in statuses.items() if code[0] != "2")
        return sum(bad) + sum(self.lost.values())

    def failures(self) -> Counter[str]:
        """Those that failed, by status or by what ended the connection."""
        found = Counter(self.lost)
        for statuses in self.streams.values():
            found.update({code: one.count for code, one in statuses.items() if code[0] != "2"})
        return found

    def rate(self, status: int = 200, stream: str = "") -> float:
        """Answers a second."""
        return self.of(status, stream).counted / self.seconds
