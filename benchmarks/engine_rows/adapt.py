"""Row 5: adaptation to five labels of five JPEGs each, from the request to the 201, over the backbone's time for 25.

The photographs are a form (multipart/form-data), and no two of them are alike: nothing that a server remembers helps.
The backbone's time is that of the executor and the size of its forwards that are fastest for 25 inputs. Beside it, a
server that remembers embeddings, as servers do unless told otherwise, gets the same form again.
"""

import time
from typing import Final

from benchmarks.bodies import JPEG, MULTIPART, multipart, photographs, shared_out
from benchmarks.engine_rows.cpu import best_of
from benchmarks.pipe import Waiting
from benchmarks.rounds import Scope, median_row, ratios, tell
from benchmarks.served import Server, serving
from benchmarks.setting_up import PHOTO, REMEMBERS, SHOT, WAY, settings
from benchmarks.table import Row

GOAL: Final = 1.3
LEARNERS: Final = ("protonet", "auto")
REQUESTS: Final = 3
"""Of each learner in a round; the round's time is their median."""


REMEMBERED_BYTES: Final = 64 * 1024 * 1024


def measure(scope: Scope) -> list[Row]:
    """With one learner, and with the choice among all."""
    size = WAY * SHOT
    photos = photographs(size * (1 + REQUESTS * (1 + len(LEARNERS)) * (scope.rounds + 1)), seed=3)
    took: dict[str, list[float]] = {learner: [] for learner in LEARNERS}
    bare: list[float] = []
    again: list[float] = []
    remembering = {**settings(scope, PHOTO), REMEMBERS: str(REMEMBERED_BYTES)}
    with (
        Waiting("benchmarks.bare", PHOTO, scope.device) as alone,
        serving(settings(scope, PHOTO)) as server,
        serving(remembering) as remembers,
    ):
        best = best_of(alone, [photos.pop() for _ in range(size)], scope.seconds / 8, "wall_s", size)
        for number in range(-1, scope.rounds):  # the first is to warm up
            passed = sorted(
                alone.ask({**best, "least_inputs": size, "least_s": 0.0})["wall_s"] for _ in range(REQUESTS)
            )
            if number >= 0:
                bare.append(passed[REQUESTS // 2])
            for learner, found in took.items():
                times = [posted(server, form(photos), learner) for _ in range(REQUESTS)]
                if number >= 0:
                    found.append(sorted(times)[REQUESTS // 2])
            times = []
            for _ in range(REQUESTS):
                body = form(photos)
                posted(remembers, body, LEARNERS[0])
                times.append(posted(remembers, body, LEARNERS[0]))
            if number >= 0:
                again.append(sorted(times)[REQUESTS // 2])
            tell(f"adapt: bare {bare[-1:]} s, " + ", ".join(f"{one} {found[-1:]} s" for one, found in took.items()))
    how = f"{best['executor']}, batch {best['batch']}"
    return [
        *(
            median_row(
                f"5 adaptation to 25 photographs, {learner}, over bare", ratios(found, bare), "times", GOAL, "lower"
            )
            for learner, found in took.items()
        ),
        median_row(f"  the same form again, {LEARNERS[0]}, over bare", ratios(again, bare), "times", better="lower"),
        median_row("  bare backbone, 25 photographs", [1000 * one for one in bare], "ms", better="lower", note=how),
    ]


def form(photos: list[bytes]) -> bytes:
    """A support set of photographs that are used up by it."""
    return multipart(shared_out([photos.pop() for _ in range(WAY * SHOT)], WAY), JPEG)


def posted(server: Server, body: bytes, learner: str) -> float:
    """Seconds from a form to the 201."""
    query = {"backbone": PHOTO, "learner": learner}
    started_s = time.perf_counter()
    server.asked("/v1/tasks", params=query, content=body, headers={"Content-Type": MULTIPART})
    return time.perf_counter() - started_s
