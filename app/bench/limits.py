"""Which part of the server binds: arithmetic on the seconds that its parts were busy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

BINDS: Final = 0.75
"""A part that is busy for so much of the time is the limit: the rest goes in waits between one thing and the next."""

GENERATOR: Final = 0.8
"""Share of one core from which on the load itself may be what binds."""

CORES: Final = 0.9
"""Share of all cores from which on they are the limit, whatever part uses them."""

NOTABLE: Final = 0.15
"""Share of all cores that is worth a word."""

BOUND: Final[Mapping[str, str]] = {
    "decode": "decoding binds",
    "backbone": "the backbone binds",
    "heads": "the heads bind",
    "HTTP": "HTTP binds",
    "database": "the database binds",
}

MORE: Final[Mapping[str, str]] = {
    "decode": "more cores (IMPRINT_DECODE_THREADS), or smaller files",
    "backbone": "a faster device",
    "heads": "a learner that scores more cheaply",
    "HTTP": "several inputs in a request, or several servers behind a proxy",
    "database": "a faster disk, or recording fewer predictions",
}
"""What raises the throughput where a part binds."""


@dataclass(frozen=True)
class Part:
    """One part of the server. `seconds` of it were used, by as many at a time as it has `lanes`; `of` says of what."""

    name: str
    seconds: float
    lanes: int
    of: str


@dataclass(frozen=True)
class Busy:
    """How the parts were seen under load, for `seconds`, in which so many predictions were answered."""

    seconds: float
    predictions: int
    parts: Sequence[Part]
    server_cpu_s: float | None
    """Of all its threads; None where the system does not tell."""
    own_cpu_s: float
    """Of the load."""
    cores: int
    idle: float | None = None
    """Share of all cores that nobody used, other programs included; None where the system does not tell."""

    def occupancy(self, part: Part) -> float:
        """Share of the time in which the part could not have taken more. Parts on one device share it."""
        seconds = sum(one.seconds for one in self.parts if one.of == part.of)
        # The counters are read a moment after the time is up.
        return min(1.0, seconds / (self.seconds * part.lanes))

    def own_occupancy(self, part: Part) -> float:
        """What the part itself has of that."""
        return min(1.0, part.seconds / (self.seconds * part.lanes))

    def each_ms(self, part: Part) -> float:
        """What a prediction takes of it."""
        return 1000 * part.seconds / max(1, self.predictions)

    @property
    def others(self) -> float:
        """Share of all cores that other programs used, as far as it is known."""
        if self.idle is None or self.server_cpu_s is None:
            return 0.0
        ours = (self.server_cpu_s + self.own_cpu_s) / (self.seconds * self.cores)
        return max(0.0, 1 - self.idle - ours)

    @property
    def own_share(self) -> float:
        """Share of one core that the load used: it has one thread."""
        return self.own_cpu_s / self.seconds


def binding(busy: Busy) -> Part | None:
    """The part at its limit: the busiest, if it is busy enough. Of several on one thread that with most seconds."""
    if not busy.parts:
        return None
    part = max(busy.parts, key=lambda one: (busy.occupancy(one), one.seconds))
    return part if busy.occupancy(part) >= BINDS else None


def verdict(busy: Busy, more: Mapping[str, str] = MORE) -> str:
    """One plain sentence, or two where the load itself was in the way."""
    return " ".join(one for one in (_bound(busy, more), _in_the_way(busy)) if one)


def _bound(busy: Busy, more: Mapping[str, str]) -> str:
    part = binding(busy)
    if part is not None:
        whole, own = busy.occupancy(part), busy.own_occupancy(part)
        shared = "" if whole - own < 0.05 else f"; {_percent(whole)} with what shares it"
        return f"{BOUND[part.name]} ({_percent(own)} of {part.of}{shared}); for more: {more[part.name]}."
    if busy.idle is not None and busy.idle <= 1 - CORES:
        most = max(busy.parts, key=lambda one: one.seconds)
        return (
            f"the cores bind ({_percent(1 - busy.idle)} of {busy.cores} busy), of the server's parts most of all "
            f"{most.name}; for more: more cores, or {more[most.name]}."
        )
    if busy.own_share >= GENERATOR:
        return "no part of the server is at its limit."
    return "no part is at its limit, they wait for each other: more clients at a time (--clients) may get more."


def _in_the_way(busy: Busy) -> str:
    if busy.own_share >= GENERATOR:
        return f"The load was at its own limit ({_percent(busy.own_share)} of one core): the server may do more."
    if busy.idle is None or busy.idle > 1 - CORES:
        return ""
    own = busy.own_cpu_s / (busy.seconds * busy.cores)
    found = [("Other programs", busy.others, "alone"), ("The load itself", own, "asked from another machine")]
    return " ".join(
        f"{who} took {_percent(share)} of the cores: {how}, the server does more."
        for who, share, how in found
        if share > NOTABLE
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
