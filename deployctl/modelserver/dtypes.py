"""Element types: TensorFlow's numbers and names, and how NumPy holds each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

STRING = 7


@dataclass(frozen=True, slots=True)
class DType:
    """One element type.

    Attributes:
        number: tensorflow.DataType.
        name: as `tf.DType.name`.
        enum_name: as in the proto, e.g. DT_FLOAT.
        numpy: NumPy's type. Types that NumPy lacks are one-field structures of the raw integer, so that the
            name travels with the array: `np.dtype([("bfloat16", "<u2")])`.
        field: the TensorProto field that lists its values.
    """

    number: int
    name: str
    enum_name: str
    numpy: np.dtype[Any]
    field: str

    @property
    def wire(self) -> np.dtype[Any]:
        """The plain integer or float type of the bytes."""
        return self.numpy if self.numpy.names is None else self.numpy[0]


def dtype_of(array: np.ndarray[Any, Any]) -> DType:
    """Returns the element type of `array`; object and bytes arrays are strings.

    Raises:
        KeyError: TensorFlow has no such type.
    """
    kind = array.dtype.kind
    if kind in "OS":
        return BY_NUMBER[STRING]
    if array.dtype.names is not None:
        return BY_NAME[array.dtype.names[0]]
    return _BY_NUMPY[array.dtype]


def _raw(name: str, wire: str) -> np.dtype[Any]:
    return np.dtype([(name, wire)])


_ALL = (
    DType(1, "float32", "DT_FLOAT", np.dtype("<f4"), "float_val"),
    DType(2, "float64", "DT_DOUBLE", np.dtype("<f8"), "double_val"),
    DType(3, "int32", "DT_INT32", np.dtype("<i4"), "int_val"),
    DType(4, "uint8", "DT_UINT8", np.dtype("u1"), "int_val"),
    DType(5, "int16", "DT_INT16", np.dtype("<i2"), "int_val"),
    DType(6, "int8", "DT_INT8", np.dtype("i1"), "int_val"),
    DType(STRING, "string", "DT_STRING", np.dtype(object), "string_val"),
    DType(8, "complex64", "DT_COMPLEX64", np.dtype("<c8"), "scomplex_val"),
    DType(9, "int64", "DT_INT64", np.dtype("<i8"), "int64_val"),
    DType(10, "bool", "DT_BOOL", np.dtype("?"), "bool_val"),
    DType(11, "qint8", "DT_QINT8", _raw("qint8", "i1"), "int_val"),
    DType(12, "quint8", "DT_QUINT8", _raw("quint8", "u1"), "int_val"),
    DType(13, "qint32", "DT_QINT32", _raw("qint32", "<i4"), "int_val"),
    DType(14, "bfloat16", "DT_BFLOAT16", _raw("bfloat16", "<u2"), "half_val"),
    DType(15, "qint16", "DT_QINT16", _raw("qint16", "<i2"), "int_val"),
    DType(16, "quint16", "DT_QUINT16", _raw("quint16", "<u2"), "int_val"),
    DType(17, "uint16", "DT_UINT16", np.dtype("<u2"), "int_val"),
    DType(18, "complex128", "DT_COMPLEX128", np.dtype("<c16"), "dcomplex_val"),
    DType(19, "float16", "DT_HALF", np.dtype("<f2"), "half_val"),
    DType(22, "uint32", "DT_UINT32", np.dtype("<u4"), "uint32_val"),
    DType(23, "uint64", "DT_UINT64", np.dtype("<u8"), "uint64_val"),
    DType(24, "float8_e5m2", "DT_FLOAT8_E5M2", _raw("float8_e5m2", "u1"), "float8_val"),
    DType(25, "float8_e4m3fn", "DT_FLOAT8_E4M3FN", _raw("float8_e4m3fn", "u1"), "float8_val"),
    DType(29, "int4", "DT_INT4", _raw("int4", "i1"), "int_val"),
    DType(30, "uint4", "DT_UINT4", _raw("uint4", "u1"), "int_val"),
)
BY_NUMBER: Mapping[int, DType] = MappingProxyType({dtype.number: dtype for dtype in _ALL})
BY_NAME: Mapping[str, DType] = MappingProxyType({dtype.name: dtype for dtype in _ALL})
_BY_NUMPY: Mapping[np.dtype[Any], DType] = MappingProxyType(
    {dtype.numpy: dtype for dtype in _ALL if dtype.numpy.names is None}
)
# Types that a signature may name but that no request or response can carry.
NAMES: Mapping[int, str] = MappingProxyType(
    {0: "invalid", 20: "resource", 21: "variant"} | {dtype.number: dtype.name for dtype in _ALL}
)
