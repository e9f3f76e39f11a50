"""The trial of a state that came in a file: what is the file's fault, and what is not."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from app.backbones import build as build_backbone
from app.core.episode import TaskState
from app.learners import build, learner_names
from app.learners._base import EmbeddingLearner
from app.services.trial import BadExport, Trial, check_labels

FEATURES = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(3).repeat(2)


def embedding_learners() -> list[str]:
    backbone = build_backbone("identity", {})
    return [one for one in learner_names() if isinstance(build(one, backbone, {}), EmbeddingLearner)]


def fitted(name: str) -> tuple[EmbeddingLearner[Any], dict[str, Tensor]]:
    learner = build(name, build_backbone("identity", {}), {}).eval()
    assert isinstance(learner, EmbeddingLearner)
    with torch.no_grad():
        return learner, dict(learner.fit(FEATURES, LABELS, 3))


@pytest.mark.parametrize("name", embedding_learners())
def test_a_learners_own_state_passes_and_its_whole_numbers_are_those_that_are_looked_at(name: str) -> None:
    learner, state = fitted(name)
    check_labels(state, 3)
    assert Trial(learner, state, FEATURES, 3)(torch.empty(0))
    whole = {key for key, one in state.items() if not one.is_floating_point()}
    assert whole <= {"labels", "shots"}, "a new one that is a place in something must be looked at before the trial"


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("labels", lambda one: one + 1),
        ("means", lambda one: one[:2]),
        ("means", lambda one: one[None]),
        ("variances", lambda one: one[:1]),
    ],
)
def test_places_of_the_mahalanobis_distance_that_are_not_there_are_refused(
    name: str, change: Callable[[Tensor], Tensor]
) -> None:
    _, state = fitted("mahalanobis")
    with pytest.raises(BadExport, match=f"The state's {name} must"):
        check_labels({**state, name: change(state[name])}, 3)


def raising(error: Exception) -> Trial:
    learner, state = fitted("protonet")

    def score(state: TaskState, features: Tensor) -> Tensor:
        raise error

    learner.score = score  # type: ignore[method-assign]
    return Trial(learner, state, FEATURES, 3)


OF_THE_DEVICE = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
]
if hasattr(torch, "AcceleratorError"):
    OF_THE_DEVICE.append(torch.AcceleratorError("CUDA error: unspecified launch failure"))


@pytest.mark.parametrize("error", OF_THE_DEVICE, ids=str)
def test_what_the_device_has_to_say_is_not_held_against_the_file(error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        raising(error)(torch.empty(0))
    assert raised.value is error


@pytest.mark.parametrize(
    "error", [RuntimeError("The size of tensor a (3) must match"), KeyError("prototypes")], ids=str
)
def test_what_cannot_be_computed_for_the_state_is(error: Exception) -> None:
    assert raising(error)(torch.empty(0)) is False
