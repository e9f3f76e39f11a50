# mypy: disable-error-code="import-not-found,misc,untyped-decorator"
"""Row (a), BentoML: `bentoml serve benchmarks.peer_servers.bentoml_app:Photos`.

As its documentation has it: a service for the model, whose API is batched adaptively, and one in front of it that
takes requests, decodes, and holds the dictionary. Each is one process.
"""

from pathlib import Path
from typing import Annotated, Any, Final

import bentoml
import numpy as np
from anyio import to_thread
from bentoml.validators import ContentType

from benchmarks.peer_servers.photos import Prototypes, backbone, max_batch_size, pixels

MAX_LATENCY_MS: Final = 60_000
"""BentoML's own: what would wait for longer is refused."""


@bentoml.service(workers=1)
class Backbone:
    """The network."""

    def __init__(self) -> None:
        self._embed = backbone()

    @bentoml.api(batchable=True, max_batch_size=max_batch_size(), max_latency_ms=MAX_LATENCY_MS)
    def embed(self, photographs: np.ndarray) -> np.ndarray:
        """uint8 (n, 3, 224, 224) to float32 (n, 1280)."""
        return self._embed(photographs)


@bentoml.service(workers=1)
class Photos:
    """Prototypes in front of the backbone."""

    backbone = bentoml.depends(Backbone)

    def __init__(self) -> None:
        self._prototypes = Prototypes()

    @bentoml.api
    async def predict(
        self, photograph: Annotated[Path, ContentType("image/jpeg")], /, context: bentoml.Context
    ) -> dict[str, Any]:
        """The label of a raw JPEG."""
        image = await to_thread.run_sync(pixels, photograph.read_bytes())
        features = await self.backbone.to_async.embed(image[None])
        return self._prototypes.nearest(context.request.query_params["task"], features[0])

    @bentoml.api
    async def adapt(
        self,
        photographs: list[Annotated[Path, ContentType("image/jpeg")]],
        labels: list[str],
        context: bentoml.Context,
    ) -> dict[str, Any]:
        """Learn a task from JPEGs and their labels."""
        images = [await to_thread.run_sync(pixels, one.read_bytes()) for one in photographs]
        features = await self.backbone.to_async.embed(np.stack(images))
        return self._prototypes.learn(context.request.query_params["task"], labels, features)
