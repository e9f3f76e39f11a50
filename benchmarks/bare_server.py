"""The least that a FastAPI server could do for row 3: JSON in, one hop to a thread, the nearest prototype, JSON out.

No checks, no registry, no metrics, no logs: `python -m benchmarks.bare_server PORT`.
"""

import sys

import numpy as np
import uvicorn
from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool

LABELS = [f"label {number}" for number in range(5)]


def create_app() -> FastAPI:
    """Five random prototypes behind one route."""
    app = FastAPI()
    prototypes = np.random.default_rng(0).normal(size=(5, 64))

    def scores(vector: list[float]) -> list[float]:
        distances = ((prototypes - np.asarray(vector)) ** 2).sum(1)
        weights = np.exp(distances.min() - distances)
        found: list[float] = (weights / weights.sum()).tolist()
        return found

    @app.get("/readyz")
    async def readyz() -> dict[str, str]:
        return {"status": "ready"}

    @app.post("/predict")
    async def predict(request: Request) -> dict[str, object]:
        given = await request.json()
        found = await run_in_threadpool(scores, given["inputs"][0])
        ranked = sorted(zip(found, LABELS, strict=True), reverse=True)
        listed = [{"label": label, "score": score} for score, label in ranked]
        return {"predictions": [{"index": 0, "label": ranked[0][1], "confidence": ranked[0][0], "scores": listed}]}

    return app


if __name__ == "__main__":
    uvicorn.run(create_app(), port=int(sys.argv[1]), access_log=False, log_level="warning")
