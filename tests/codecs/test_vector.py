import contextlib
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from app.codecs._base import RawInput, decode_inputs
from app.codecs._errors import NotFinite, NotNumbers, NotSafetensors, VectorSize, VectorTooLong
from app.codecs.tensors import read_vectors
from app.codecs.vector import FLOAT32_MEDIA_TYPE, VectorCodec, vector_of_query
from app.core.errors import ImprintError
from app.core.limits import Limits

LIMITS = Limits()
CODEC = VectorCodec(LIMITS)


def raw(*vectors: object) -> list[RawInput]:
    return [RawInput("vector", vector, f"/inputs/{at}/vector") for at, vector in enumerate(vectors)]


def test_a_list_of_numbers_becomes_float32() -> None:
    item = CODEC.decode(*raw([1, -2.5, 1e-3]))
    assert item.tensor.dtype == torch.float32
    assert torch.equal(item.tensor, torch.tensor([1, -2.5, 1e-3]))
    assert item.content == np.array([1, -2.5, 1e-3], dtype="<f4").tobytes()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1e39, -1e300, 10**400, -(10**305)])
def test_a_number_that_is_not_finite_in_float32_is_refused_at_its_place(value: float) -> None:
    vector = [0.5] * 384
    vector[17] = value
    with pytest.raises(NotFinite) as caught:
        decode_inputs(CODEC, raw(vector))
    assert [fault.pointer for fault in caught.value.faults] == ["/inputs/0/vector/17"]


@pytest.mark.parametrize("value", ["1.0", None, True, False, [1.0], {"a": 1}])
def test_an_element_that_is_not_a_number_is_refused_at_its_place(value: object) -> None:
    with pytest.raises(NotNumbers) as caught:
        CODEC.decode(*raw([1.0, 0.5, value, 3.0]))
    assert caught.value.faults[0].pointer == "/inputs/0/vector/2"


@pytest.mark.parametrize(
    "raw_input",
    [
        RawInput("vector", "0.1,0.2", "/v"),
        RawInput("vector", b"abcd", "/v"),
        RawInput("vector", np.zeros((2, 2)), "/v"),
        RawInput("bytes", b'"0.1"', "/v"),
        RawInput("bytes", b"3.0", "/v"),
        RawInput("bytes", b"null", "/v"),
        RawInput("bytes", b'{"0": 1.0}', "/v"),
        RawInput("bytes", b"abcde", "/v", FLOAT32_MEDIA_TYPE),
    ],
)
def test_something_that_is_not_a_list_is_refused(raw_input: RawInput) -> None:
    with pytest.raises(NotNumbers) as caught:
        CODEC.decode(raw_input)
    assert caught.value.faults[0].pointer == "/v"


def test_vectors_of_mixed_sizes_are_refused_at_the_first_that_differs() -> None:
    with pytest.raises(VectorSize, match="has 3 numbers, the first one has 2") as caught:
        decode_inputs(CODEC, raw([1.0, 2.0], [1.0, 2.0], [1.0, 2.0, 3.0], [1.0]))
    assert [fault.pointer for fault in caught.value.faults] == ["/inputs/2/vector"]


def test_a_vector_of_another_size_than_the_task_s_is_refused() -> None:
    with pytest.raises(VectorSize, match="has 2 numbers; 3 are expected") as caught:
        CODEC.expecting(3).decode(*raw([1.0, 2.0]))
    assert caught.value.faults[0].pointer == "/inputs/0/vector"


def test_an_empty_and_a_far_too_long_vector_are_refused() -> None:
    with pytest.raises(VectorSize, match="empty"):
        CODEC.decode(*raw([]))
    with pytest.raises(VectorTooLong):
        CODEC.decode(*raw([0.0] * (LIMITS.vector_dim + 1)))
    with pytest.raises(VectorTooLong):
        CODEC.decode(RawInput("bytes", b"[" + b"0," * 1_000_000 + b"0]", "/v"))


def test_json_bytes_are_read_and_broken_ones_refused() -> None:
    assert CODEC.decode(RawInput("bytes", b"[1, 2.5]", "/v")).tensor.tolist() == [1, 2.5]
    for data in (b"", b"[1,", b"\xff\xfe", b"[" * 100_000, b"[" + b"9" * 5000 + b"]"):
        with pytest.raises(NotNumbers):
            CODEC.decode(RawInput("bytes", data, "/v"))
    with pytest.raises(NotFinite):
        CODEC.decode(RawInput("bytes", b"[NaN]", "/v"))


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=40))
def test_what_is_stored_decodes_to_the_same_again(vector: list[float]) -> None:
    first = CODEC.decode(*raw(vector))
    again = CODEC.decode(RawInput("bytes", first.content, "/v", first.media_type))
    assert torch.equal(first.tensor, again.tensor)
    assert first.sha256 == again.sha256


def test_a_vector_in_a_query_string_is_read() -> None:
    assert CODEC.decode(vector_of_query("0.5,-2,3e-1", "/vector")).tensor.tolist() == pytest.approx([0.5, -2, 0.3])
    with pytest.raises(NotNumbers) as caught:
        vector_of_query("0.5,,1", "/vector")
    assert caught.value.faults[0].pointer == "/vector/1"


def test_faults_of_many_vectors_are_listed_up_to_twenty() -> None:
    with pytest.raises(NotFinite, match="3 inputs") as caught:
        decode_inputs(CODEC, raw([1.0], [float("nan")], [2.0], [1e39], [float("inf")]))
    assert [fault.pointer for fault in caught.value.faults] == [f"/inputs/{at}/vector/0" for at in (1, 3, 4)]
    with pytest.raises(NotFinite) as caught:
        decode_inputs(CODEC, raw(*[[float("nan")]] * 100))
    assert len(caught.value.faults) == 20


def test_more_inputs_than_the_limit_are_refused() -> None:
    with pytest.raises(ImprintError) as caught:
        decode_inputs(CODEC, raw(*[[1.0]] * (LIMITS.inputs + 1)))
    assert caught.value.code == "too-many-inputs"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_safetensors_of_every_float_type_are_read(dtype: torch.dtype) -> None:
    values = torch.tensor([[0.5, -1.0], [2.0, 4.0], [8.0, 0.25]], dtype=dtype)
    raws = read_vectors(save({"inputs": values}), LIMITS)
    assert [item.pointer for item in raws] == ["/inputs/0", "/inputs/1", "/inputs/2"]
    assert torch.equal(CODEC.stack([CODEC.decode(item).tensor for item in raws]), values.float())


def test_safetensors_with_numbers_that_are_not_finite_are_refused_at_their_place() -> None:
    for bad in (float("nan"), 1e39):
        values = torch.zeros(3, 4, dtype=torch.float64)
        values[1, 2] = bad
        with pytest.raises(NotFinite) as caught:
            decode_inputs(CODEC, read_vectors(save({"inputs": values}), LIMITS))
        assert caught.value.faults[0].pointer == "/inputs/1/2"


@pytest.mark.parametrize(
    ("tensors", "code"),
    [
        ({"inputs": torch.zeros(2, 3, dtype=torch.int64)}, "invalid-tensor"),
        ({"inputs": torch.zeros(3)}, "invalid-tensor"),
        ({"inputs": torch.zeros(0, 3)}, "invalid-tensor"),
        ({"inputs": torch.zeros(3, 0)}, "invalid-tensor"),
        ({"other": torch.zeros(2, 3)}, "invalid-tensor"),
        ({"inputs": torch.zeros(2, 3), "more": torch.zeros(1)}, "invalid-tensor"),
        ({}, "invalid-tensor"),
        ({"inputs": torch.zeros(1001, 1)}, "too-many-inputs"),
        ({"inputs": torch.zeros(1, 16_385)}, "vector-too-long"),
    ],
)
def test_safetensors_of_another_content_are_refused_with_a_pointer(tensors: dict[str, torch.Tensor], code: str) -> None:
    with pytest.raises(ImprintError) as caught:
        read_vectors(save(tensors), LIMITS)
    assert caught.value.code == code
    assert caught.value.faults[0].pointer == "/inputs"


@pytest.mark.parametrize(
    "header",
    [
        {"inputs": {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 8]}},
        {"inputs": {"dtype": "F32", "shape": [2**63, 2], "data_offsets": [0, 8]}},
        {"inputs": {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 10**15]}},
        {"inputs": {"dtype": "F32", "shape": [1, 2], "data_offsets": [8, 0]}},
        {"inputs": {"dtype": "F99", "shape": [1, 2], "data_offsets": [0, 8]}},
    ],
)
def test_safetensors_headers_that_lie_are_refused(header: dict[str, object]) -> None:
    text = json.dumps(header).encode()
    with pytest.raises(NotSafetensors):
        read_vectors(len(text).to_bytes(8, "little") + text + bytes(8), LIMITS)
    with pytest.raises(NotSafetensors):
        read_vectors((2**60).to_bytes(8, "little") + text, LIMITS)


@given(st.binary(max_size=200))
def test_any_bytes_are_vectors_or_an_error_of_ours(data: bytes) -> None:
    for media_type in (None, "application/json", FLOAT32_MEDIA_TYPE):
        with contextlib.suppress(ImprintError):
            assert torch.isfinite(CODEC.decode(RawInput("bytes", data, "/v", media_type)).tensor).all()
    with pytest.raises(ImprintError):
        read_vectors(data, LIMITS)


@given(st.lists(st.one_of(st.floats(), st.integers(), st.text(max_size=2), st.none(), st.booleans()), max_size=5))
def test_any_list_is_a_vector_or_an_error_of_ours(values: list[object]) -> None:
    with contextlib.suppress(ImprintError):
        assert torch.isfinite(CODEC.decode(*raw(values)).tensor).all()


@pytest.mark.parametrize("kind", ["text", "base64"])
def test_other_kinds_than_vectors_are_refused(kind: str) -> None:
    with pytest.raises(ImprintError) as caught:
        CODEC.decode(RawInput(kind, "hello", "/inputs/0"))
    assert caught.value.code == "wrong-input-kind"
