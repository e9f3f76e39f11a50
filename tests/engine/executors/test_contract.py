"""What every executor keeps to, whatever library computes."""

import subprocess
import sys
from typing import final

import pytest
import torch
from jaxtyping import Shaped
from torch import Tensor

from app.backbones import build
from app.core.episode import Features
from app.engine.errors import DeviceMemoryFull
from app.engine.executors._base import Executor
from app.engine.executors.check import TOLERANCE, deviation
from app.engine.executors.choose import COMPILED

SUBJECTS = ("photo", "text", "glyph", "resnet")
SIZES = {"photo": (3,), "text": (5, 40, 1, 12, 300, 3, *range(2, 200, 9)), "glyph": (5,), "resnet": (5,)}

every_executor = pytest.mark.parametrize("executor", ["torch", *COMPILED])
every_subject = pytest.mark.parametrize("subject", SUBJECTS)


@every_subject
@every_executor
def test_it_embeds_as_torch_does(make, draw, executor, subject):
    parts = draw(subject, *SIZES[subject])
    features = make(executor, subject).embed(parts)
    assert deviation(features, make("torch", subject).embed(parts)) <= TOLERANCE
    assert features.dtype == torch.float32
    assert not features.requires_grad
    assert not features.is_inference()


@every_subject
@every_executor
def test_a_row_does_not_depend_on_its_batch_mates(make, draw, executor, subject):
    one = make(executor, subject)
    parts = draw(subject, *SIZES[subject], seed=1)
    alone = torch.cat([one.embed([part]) for part in parts])
    assert deviation(one.embed(parts), alone) <= TOLERANCE
    assert deviation(one.embed(parts[::-1]), alone.flip(0)) <= TOLERANCE


@every_executor
def test_an_answer_stays_what_it_was_when_the_next_is_computed(make, draw, executor):
    one = make(executor, "glyph")
    first, second = draw("glyph", 2)
    features = one.embed([first])
    before = features.clone()
    one.embed([second])
    assert torch.equal(features, before)


@every_executor
def test_short_texts_are_not_computed_at_the_length_of_a_long_one(make, draw, executor):
    one = make(executor, "text", 64)
    one.embed(draw("text", 60, *[4] * 10))
    assert one.forwards == 2


@every_executor
def test_a_text_of_padding_alone_and_an_empty_part_are_no_error(make, draw, executor):
    one = make(executor, "text")
    (text,) = draw("text", 7)
    features = one.embed([torch.zeros(1, 5, dtype=torch.int64), text[:0], text])
    assert features.shape == (2, 384)
    assert features[0].abs().max() == 0
    assert deviation(features[1:], one.embed([text])) <= TOLERANCE


@every_executor
def test_a_work_without_rows_gets_features_without_rows(make, executor):
    assert make(executor, "photo").no_features(torch.empty(0)).shape == (0, 1280)


@every_executor
def test_it_beats_before_every_forward_and_lets_through_what_that_raises(make, draw, executor):
    one = make(executor, "photo")
    beats: list[int] = []
    one.embed(draw("photo", 9), lambda: beats.append(1))
    assert len(beats) == one.forwards == 2

    def abandon() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        one.embed(draw("photo", 1), abandon)
    assert one.forwards == 2


@every_executor
def test_wrong_inputs_are_an_error_and_not_out_of_memory(make, executor):
    one = make(executor, "photo")
    with pytest.raises(Exception) as raised:  # noqa: PT011 - each library has its own
        one.embed([torch.zeros(2, 7, 9, 9, dtype=torch.uint8)])
    assert not isinstance(raised.value, DeviceMemoryFull)
    assert one.forwards == 1


@final
class Scarce(Executor):
    """Takes `room` rows at once; more raises `error`."""

    name = "scarce"

    def __init__(self, error: Exception, room: int) -> None:
        super().__init__(build("identity", {}), torch.device("cpu"))
        self.error, self.room = error, room
        self.sizes: list[int] = []

    def _forward(self, rows: Shaped[Tensor, "n ..."], places: Tensor | None = None) -> Features:
        assert places is None
        self.sizes.append(len(rows))
        if len(rows) > self.room:
            raise self.error
        return rows * 2.0


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("Exception from src/inference: std::bad_alloc"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
    ],
)
def test_out_of_memory_halves_the_micro_batch(error):
    one = Scarce(error, 3)
    rows = torch.arange(10.0)[:, None]
    assert torch.equal(one.embed([rows]), rows * 2)
    assert one.sizes == [10, 5, 3, 2, 5, 3, 2]
    assert one.forwards == 7
    one.room = 0
    with pytest.raises(DeviceMemoryFull):
        one.embed([rows])


SCARCE_MEMORY = """
import resource, sys, torch
from pathlib import Path
from app.checkpoints.load import load, scan
from app.config import bundled_models
from app.engine.executors.choose import COMPILED
torch.set_num_threads(1)
backbone = load(scan([bundled_models()])["photo-efficientnet-lite0"]).backbone
one = COMPILED["onnxruntime"](backbone, Path(sys.argv[1]))
images = torch.zeros(8, 3, 224, 224, dtype=torch.uint8)
alone = one.embed([images[:1]])
pages = int(Path("/proc/self/statm").read_text().split()[0])
room = pages * resource.getpagesize() + 30 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (room, room))
together = one.embed([images])
assert one.forwards > 2, one.forwards
assert torch.allclose(together, alone.expand(8, -1), rtol=1e-4, atol=1e-4)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on memory is Linux's")
def test_onnx_runtime_out_of_memory_is_known_as_such(make, folder, subjects):
    make("onnxruntime", "photo")
    (path,) = folder.glob(f"{subjects['photo'].sha256}-*.onnx")
    done = subprocess.run([sys.executable, "-c", SCARCE_MEMORY, path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
