"""Row 6: sixteen MAML adaptations at once, over one alone: 5 steps on five glyphs of each of five labels.

MAML adapts the weights of the backbone, so these share no forward unless the engine makes them (vmap). The time of the
sixteen is that from the first request to the last 201.
"""

import json
import statistics
from typing import Final
from urllib.parse import urlencode

from benchmarks.bodies import MULTIPART, glyphs, multipart, shared_out
from benchmarks.generator import Generator
from benchmarks.plan import Plan, Stream
from benchmarks.rounds import Scope, median_row, ratios, tell
from benchmarks.served import serving
from benchmarks.setting_up import GLYPH, SHOT, WAY, settings
from benchmarks.table import Row

GOALS: Final = {"cpu": 16.0, "cuda": 3.0}
AT_ONCE: Final = 16
ALONE: Final = 3
STEPS: Final = 5


def measure(scope: Scope) -> list[Row]:
    """Alone and together, in turns."""
    size = WAY * SHOT
    pictures = glyphs(size * (AT_ONCE + ALONE) * (scope.rounds + 1), seed=4)
    sets = [pictures[start : start + size] for start in range(0, len(pictures), size)]
    bodies = [multipart(shared_out(one, WAY), "image/png") for one in sets]
    query = urlencode({"backbone": GLYPH, "learner": "maml", "learner_settings": json.dumps({"steps": STEPS})})
    alone: list[float] = []
    together: list[float] = []
    with serving(settings(scope, GLYPH)) as server, Generator(bodies) as generator:

        def adapt(clients: int, total: int) -> float:
            plan = Plan(server.port, MULTIPART, [Stream([f"/v1/tasks?{query}"], clients=clients)], total=total)
            outcome = generator.run(plan)
            if outcome.of(201).count != total:
                raise RuntimeError(f"Not every adaptation came through: {dict(outcome.streams)}")
            return outcome.seconds

        adapt(1, ALONE)
        for _ in range(2):  # on an accelerator the first two groups decide how groups are adapted
            adapt(AT_ONCE, AT_ONCE)
        for _ in range(scope.rounds):
            alone.append(statistics.median(adapt(1, 1) for _ in range(ALONE)))
            together.append(adapt(AT_ONCE, AT_ONCE))
            tell(f"maml: one {alone[-1]:.3f} s, {AT_ONCE} at once {together[-1]:.3f} s")
    name = f"6 {AT_ONCE} MAML adaptations at once over one"
    return [
        median_row(name, ratios(together, alone), "times", GOALS[scope.device], "lower"),
        median_row("  one alone", [1000 * one for one in alone], "ms", better="lower"),
    ]
