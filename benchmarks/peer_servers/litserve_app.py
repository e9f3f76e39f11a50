# mypy: disable-error-code="import-not-found,misc,untyped-decorator"
"""Row (a), LitServe: `python -m benchmarks.peer_servers.litserve_app PORT`.

As its documentation has it: a `LitAPI` that decodes, embeds a batch, and answers; one worker, for the dictionary lives
in its memory. The path of a `LitAPI` is one, so examples to adapt to come by the same path, as a form.
"""

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Final, NamedTuple

import litserve
import numpy as np
from fastapi import Depends, Request
from starlette.datastructures import UploadFile

from benchmarks.peer_servers.photos import DEVICE_VARIABLE, Array, Prototypes, backbone, max_batch_size, pixels

BATCH_TIMEOUT_S: Final = 0.005


class Asked(NamedTuple):
    """What came: examples with labels, or one photograph without."""

    task: str
    files: list[bytes]
    labels: list[str]


class Decoded(NamedTuple):
    """The same, decoded: uint8 (n, 3, 224, 224)."""

    task: str
    photographs: Array
    labels: list[str]


async def asked(request: Request, task: str) -> Asked:
    """Read the body."""
    if not request.headers["content-type"].startswith("multipart/"):
        return Asked(task, [await request.body()], [])
    parts = (await request.form()).multi_items()
    examples = [(label, await file.read()) for label, file in parts if isinstance(file, UploadFile)]
    return Asked(task, [file for _, file in examples], [label for label, _ in examples])


class Photos(litserve.LitAPI):
    """The photo backbone with prototypes behind it."""

    def setup(self, device: str) -> None:  # noqa: ARG002 - the environment says it to all servers alike
        """Load, in the worker."""
        self.embed = backbone()
        self.prototypes = Prototypes()

    def decode_request(self, request: Annotated[Asked, Depends(asked)]) -> Decoded:
        """JPEGs to pixels."""
        return Decoded(request.task, np.stack([pixels(file) for file in request.files]), request.labels)

    def batch(self, inputs: Sequence[Decoded]) -> Sequence[Decoded]:
        """As they are: they differ in how many photographs they have."""
        return inputs

    def predict(self, batch: Sequence[Decoded]) -> list[dict[str, Any]]:
        """All photographs through the backbone at once, then each to its own prototypes."""
        features = self.embed(np.concatenate([one.photographs for one in batch]))
        ends = np.cumsum([len(one.photographs) for one in batch])
        return [self.answer(one, some) for one, some in zip(batch, np.split(features, ends[:-1]), strict=True)]

    def answer(self, one: Decoded, features: Array) -> dict[str, Any]:
        """Of one request."""
        if one.labels:
            return self.prototypes.learn(one.task, one.labels, features)
        return self.prototypes.nearest(one.task, features[0])

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """They are apart already."""
        return output

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        """JSON."""
        return output


def main() -> None:
    """Serve on the port."""
    api = Photos(max_batch_size=max_batch_size(), batch_timeout=BATCH_TIMEOUT_S)
    device = os.environ.get(DEVICE_VARIABLE, "cpu")
    server = litserve.LitServer(api, accelerator=device, devices=1, healthcheck_path="/readyz")
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
