from __future__ import annotations

import pytest

from deployctl.domain.saved_model import TensorSpec
from deployctl.protos.saved_model_pb2 import TensorInfo
from deployctl.protos.tensor_pb2 import DataType, TensorShapeProto
from deployctl.savedmodel.dtypes import dtype_name, shape_of, tensor_spec


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (DataType.DT_FLOAT, "float32"),
        (DataType.DT_DOUBLE, "float64"),
        (DataType.DT_HALF, "float16"),
        (DataType.DT_BFLOAT16, "bfloat16"),
        (DataType.DT_STRING, "string"),
        (DataType.DT_FLOAT8_E4M3FN, "float8_e4m3fn"),
        (DataType.DT_INT64_REF, "int64_ref"),
        (DataType.DT_FLOAT_REF, "float32_ref"),
        (DataType.DT_HALF_REF, "float16_ref"),
        (DataType.DT_FLOAT8_E5M2_REF, "float8_e5m2_ref"),
        (777, "dtype(777)"),
        (-1, "dtype(-1)"),
    ],
)
def test_gives_types_the_names_of_tensorflow(number: int, name: str) -> None:
    assert dtype_name(number) == name


def test_a_free_axis_is_none_and_an_unknown_rank_has_no_shape() -> None:
    dims = [TensorShapeProto.Dim(size=-1), TensorShapeProto.Dim(size=0), TensorShapeProto.Dim(size=3)]
    assert shape_of(TensorShapeProto(dim=dims)) == (None, 0, 3)
    assert shape_of(TensorShapeProto()) == ()
    assert shape_of(TensorShapeProto(unknown_rank=True)) is None


def test_a_sparse_input_has_no_tensor_name() -> None:
    sparse = TensorInfo(coo_sparse=TensorInfo.CooSparse(values_tensor_name="v:0"), dtype=DataType.DT_INT64)
    assert tensor_spec(sparse) == TensorSpec("int64", (), "")
