"""JSON values become tensors and come back; numbers keep the digits that the server's REST side would write."""

from __future__ import annotations

import math
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployctl.errors import InvalidRequestError, ServerError
from deployctl.protos import tensor_pb2
from deployctl.serving.tensors import from_tensor, shape_of, to_tensor

ELEMENTS: dict[str, st.SearchStrategy[Any]] = {
    "float32": st.floats(width=32, allow_nan=False),
    "float64": st.floats(allow_nan=False),
    "float16": st.floats(width=16, allow_nan=False),
    "int8": st.integers(-(2**7), 2**7 - 1),
    "int16": st.integers(-(2**15), 2**15 - 1),
    "int32": st.integers(-(2**31), 2**31 - 1),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "uint8": st.integers(0, 2**8 - 1),
    "uint16": st.integers(0, 2**16 - 1),
    "uint32": st.integers(0, 2**32 - 1),
    "uint64": st.integers(0, 2**64 - 1),
    "bool": st.booleans(),
    "string": st.text(st.characters(exclude_categories=["Cs"])),
}
CODES = {"float32": "f", "float16": "e", "float64": "d"}


@st.composite
def tensors(draw: st.DrawFn) -> tuple[str, tuple[int, ...], Any]:
    dtype = draw(st.sampled_from(sorted(ELEMENTS)))
    shape = tuple(draw(st.lists(st.integers(1, 4), max_size=3)))

    def value(axes: tuple[int, ...]) -> Any:
        return [value(axes[1:]) for _ in range(axes[0])] if axes else draw(ELEMENTS[dtype])

    return dtype, shape, value(shape)


def rounded(dtype: str, value: Any) -> Any:
    """What `value` is once it has been stored as `dtype`."""
    if isinstance(value, list):
        return [rounded(dtype, element) for element in value]
    code = CODES.get(dtype)
    return struct.unpack(f"<{code}", struct.pack(f"<{code}", value))[0] if code else value


@given(tensors())
def test_a_value_comes_back_as_it_was_given(case: tuple[str, tuple[int, ...], Any]) -> None:
    dtype, shape, value = case

    tensor = to_tensor("x", dtype, value)

    assert shape_of(tensor) == shape
    assert rounded(dtype, from_tensor("x", tensor)) == value


@pytest.mark.parametrize(
    ("value", "shape"),
    [([], (0,)), ([[], []], (2, 0)), ([[[]], [[]]], (2, 1, 0))],
)
def test_empty_lists_keep_their_shape(value: Any, shape: tuple[int, ...]) -> None:
    tensor = to_tensor("x", "float32", value)

    assert shape_of(tensor) == shape
    assert from_tensor("x", tensor) == value


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0.1, 0.1),
        (2.5, 2.5),
        (9e6, 9e6),
        (1 / 3, 0.333333343),
        (1e-45, 1.4013e-45),
        (3.4028234663852886e38, 3.40282347e38),
    ],
)
def test_a_float32_has_six_digits_or_nine_as_the_server_prints_it(number: float, shown: float) -> None:
    assert from_tensor("y", to_tensor("y", "float32", number)) == shown


@pytest.mark.parametrize("number", [math.inf, -math.inf])
def test_infinity_is_kept(number: float) -> None:
    assert from_tensor("y", to_tensor("y", "float32", [number])) == [number]


def test_nan_is_kept() -> None:
    assert math.isnan(from_tensor("y", to_tensor("y", "float32", math.nan)))


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("float32", [[1.0], [1.0, 2.0]]),
        ("float32", [1.0, [2.0]]),
        ("float32", [[1.0], 2.0]),
        ("float32", "1.0"),
        ("float32", True),
        ("float32", 1e39),
        ("float32", None),
        ("int32", 1.0),
        ("int32", 2**31),
        ("int64", True),
        ("uint8", -1),
        ("bool", 1),
        ("string", 1),
        ("string", {"b64": "!"}),
        ("string", {"b64": 1}),
        ("string", {"text": "x"}),
        ("complex64", 1.0),
        ("resource", 1),
    ],
)
def test_refuses_a_value_that_is_not_of_the_inputs_type(dtype: str, value: Any) -> None:
    with pytest.raises(InvalidRequestError):
        to_tensor("x", dtype, value)


def test_refuses_lists_nested_deeper_than_a_tensor_can_be() -> None:
    value: Any = 1.0
    for _ in range(255):
        value = [value]

    with pytest.raises(InvalidRequestError, match="at most 254 axes"):
        to_tensor("x", "float32", value)


def test_base64_objects_are_bytes() -> None:
    assert list(to_tensor("x", "string", [{"b64": "/wA="}, "é"]).string_val) == [b"\xff\x00", b"\xc3\xa9"]


def test_an_output_whose_name_ends_in_bytes_is_base64() -> None:
    tensor = to_tensor("x", "string", [{"b64": "/wA="}])

    assert from_tensor("image_bytes", tensor) == [{"b64": "/wA="}]


def test_values_that_the_server_left_out_repeat_the_last_one() -> None:
    tensor = tensor_pb2.TensorProto(dtype=tensor_pb2.DT_FLOAT, float_val=[1.0, 2.0])
    tensor.tensor_shape.dim.add(size=4)

    assert from_tensor("y", tensor) == [1.0, 2.0, 2.0, 2.0]


def test_half_values_are_read_from_their_bit_patterns() -> None:
    tensor = tensor_pb2.TensorProto(dtype=tensor_pb2.DT_HALF, half_val=[0x3C00, 0xC000])
    tensor.tensor_shape.dim.add(size=2)

    assert from_tensor("y", tensor) == [1.0, -2.0]


@pytest.mark.parametrize(
    "tensor",
    [
        tensor_pb2.TensorProto(dtype=tensor_pb2.DT_FLOAT, tensor_content=b"123"),
        tensor_pb2.TensorProto(dtype=tensor_pb2.DT_INT32, int_val=[1, 2]),
        tensor_pb2.TensorProto(dtype=tensor_pb2.DT_VARIANT),
    ],
)
def test_refuses_an_output_that_does_not_fit_its_shape_or_has_no_json_form(tensor: tensor_pb2.TensorProto) -> None:
    with pytest.raises(ServerError):
        from_tensor("y", tensor)
