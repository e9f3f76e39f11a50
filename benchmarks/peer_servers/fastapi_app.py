"""Row (d): FastAPI without batching, a photograph a forward: `python -m benchmarks.peer_servers.fastapi_app PORT`."""

import sys
from typing import Annotated, Any

import numpy as np
import torch
import uvicorn
from fastapi import Body, Depends, FastAPI, Request
from starlette.datastructures import UploadFile

from benchmarks.peer_servers.photos import Prototypes, backbone, pixels


async def examples_of(request: Request) -> list[tuple[str, bytes]]:
    """The labels and files of a form."""
    parts = (await request.form()).multi_items()
    return [(label, await file.read()) for label, file in parts if isinstance(file, UploadFile)]


def create_app() -> FastAPI:
    """Two routes, which run in FastAPI's threads."""
    app, embed, prototypes = FastAPI(), backbone(), Prototypes()

    @app.get("/readyz")
    def readyz() -> dict[str, str]:
        return {"status": "ready"}

    @app.post("/adapt")
    def adapt(task: str, examples: Annotated[list[tuple[str, bytes]], Depends(examples_of)]) -> dict[str, Any]:
        photographs = np.stack([pixels(file) for _, file in examples])
        return prototypes.learn(task, [label for label, _ in examples], embed(photographs))

    @app.post("/predict")
    def predict(task: str, file: Annotated[bytes, Body(media_type="image/jpeg")]) -> dict[str, Any]:
        return prototypes.nearest(task, embed(pixels(file)[None])[0])

    return app


if __name__ == "__main__":
    # Requests in other threads fill the other cores: a third less CPU a prediction than all cores for each.
    torch.set_num_threads(1)
    uvicorn.run(create_app(), port=int(sys.argv[1]), access_log=False, log_level="warning")
