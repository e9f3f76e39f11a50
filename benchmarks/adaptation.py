"""Milliseconds to adapt an already embedded support set, inside the server: `python -m benchmarks.adaptation`."""

import statistics

import numpy as np

from benchmarks.server import running
from benchmarks.table import Row, arguments, show

WAY, SHOT, DIM, ROUNDS, WARM_UP = 5, 5, 384, 100, 10


def main() -> None:
    """Make tasks of vectors and read the server's own timing of the adaptation."""
    options = arguments(__doc__ or "").parse_args()
    draw = np.random.default_rng(0)
    rows = []
    with running(backbones="vector-identity", device="cpu") as client:
        for learner, goal in (
            ("protonet", 5.0),
            ("ridge", None),
            ("logistic", None),
            ("matching", None),
            ("auto", None),
        ):
            found = []
            for _ in range(WARM_UP + ROUNDS):
                support = {f"label {n}": draw.normal(n, 1, (SHOT, DIM)).round(5).tolist() for n in range(WAY)}
                body = {"backbone": "vector-identity", "learner": learner, "support": support}
                response = client.post("/v1/tasks", json=body)
                response.raise_for_status()
                found.append((response.json()["timing"]["total_ms"], 1000 * response.elapsed.total_seconds()))
            inside, outside = (statistics.median(one[WARM_UP:]) for one in zip(*found, strict=True))
            shape = f"{WAY}-way {SHOT}-shot, {DIM}-d"
            rows.append(Row(f"{learner}: request to adapted state", inside, "ms", goal, "lower", note=shape))
            rows.append(Row(f"{learner}: round trip, stored", outside, "ms", None, "lower", note="fsync included"))
    show(f"Adaptation of embedded support sets, median of {ROUNDS}", rows, options.json)


if __name__ == "__main__":
    main()
