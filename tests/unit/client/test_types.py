"""Arrays go into tensors and come back, whatever their type."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from hypothesis.extra import numpy as arrays

from deployctl.client import BadRequestError
from deployctl.client.call import Array
from deployctl.client.types import NUMPY_NAMES, from_tensor, to_tensor
from deployctl.protos import tensor_pb2

NUMBERS = sorted(set(NUMPY_NAMES.values()) - {"object"})


@given(some.sampled_from(NUMBERS).flatmap(lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0))))
def test_numbers_come_back_as_they_went(array: Array) -> None:
    back = from_tensor("y", to_tensor("x", array))

    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


@given(some.lists(some.binary(), min_size=1))
def test_strings_come_back_as_bytes(strings: list[bytes]) -> None:
    array = np.empty((len(strings), 1), dtype=object)
    array[:, 0] = strings

    assert from_tensor("y", to_tensor("x", array)).tolist() == array.tolist()


def test_values_in_fields_are_read_and_the_last_one_repeats() -> None:
    tensor = tensor_pb2.TensorProto(dtype=tensor_pb2.DT_FLOAT, float_val=[1, 2])
    tensor.tensor_shape.dim.add(size=4)

    assert from_tensor("y", tensor).tolist() == [1, 2, 2, 2]


@pytest.mark.parametrize(
    ("kind", "field", "values", "expected"),
    [
        (tensor_pb2.DT_HALF, "half_val", [0x3C00], [1.0]),
        (tensor_pb2.DT_COMPLEX64, "scomplex_val", [1.0, 2.0], [1 + 2j]),
        (tensor_pb2.DT_UINT8, "int_val", [255], [255]),
    ],
)
def test_types_without_a_field_of_their_own_are_read(
    kind: tensor_pb2.DataType, field: str, values: list[float], expected: list[complex]
) -> None:
    tensor = tensor_pb2.TensorProto(dtype=kind)
    getattr(tensor, field).extend(values)
    tensor.tensor_shape.dim.add(size=1)

    assert from_tensor("y", tensor).tolist() == expected


def test_a_type_that_tensorflow_does_not_have_is_refused() -> None:
    with pytest.raises(BadRequestError, match="'x' is datetime64"):
        to_tensor("x", np.array(["2026-01-01"], "datetime64[D]"))
