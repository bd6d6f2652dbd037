"""JSON values to TensorProto and back without NumPy, by the rules of TensorFlow Serving's REST API.

The rules (tensorflow_serving/util/json_tensor.cc): whole numbers are accepted for floating point tensors but not the
other way round, bytes are `{"b64": "…"}` objects, string outputs are bytes where the output's name ends in `_bytes`,
and a float32 has six significant digits, or nine where six do not give the same float32 back.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import itertools
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deployctl.errors import InvalidRequestError, ServerError
from deployctl.protos import tensor_pb2

# TensorFlow's own limit (TensorShape::MaxDimensions).
MAX_RANK = 254
_STRING = "string"


@dataclass(frozen=True, slots=True)
class _Kind:
    """How one element type is kept in a TensorProto.

    Attributes:
        enum: DataType.
        code: of the `struct` module, for one element of `tensor_content`.
        field: the repeated field that holds the values when `tensor_content` does not.
        accepts: the exact JSON types that an element may have; `bool` is not a number here.
    """

    enum: tensor_pb2.DataType
    code: str
    field: str
    accepts: tuple[type, ...]


_FLOAT = (float, int)
_KINDS = {
    "float32": _Kind(tensor_pb2.DT_FLOAT, "f", "float_val", _FLOAT),
    "float64": _Kind(tensor_pb2.DT_DOUBLE, "d", "double_val", _FLOAT),
    "float16": _Kind(tensor_pb2.DT_HALF, "e", "half_val", _FLOAT),
    "int8": _Kind(tensor_pb2.DT_INT8, "b", "int_val", (int,)),
    "int16": _Kind(tensor_pb2.DT_INT16, "h", "int_val", (int,)),
    "int32": _Kind(tensor_pb2.DT_INT32, "i", "int_val", (int,)),
    "int64": _Kind(tensor_pb2.DT_INT64, "q", "int64_val", (int,)),
    "uint8": _Kind(tensor_pb2.DT_UINT8, "B", "int_val", (int,)),
    "uint16": _Kind(tensor_pb2.DT_UINT16, "H", "int_val", (int,)),
    "uint32": _Kind(tensor_pb2.DT_UINT32, "I", "uint32_val", (int,)),
    "uint64": _Kind(tensor_pb2.DT_UINT64, "Q", "uint64_val", (int,)),
    "bool": _Kind(tensor_pb2.DT_BOOL, "?", "bool_val", (bool,)),
}
# Significant digits of a float32: as many as are printed first, and as many as always give it back.
_FEWEST_DIGITS = 6
_MOST_DIGITS = 9
_NAMES = {kind.enum: name for name, kind in _KINDS.items()} | {tensor_pb2.DT_STRING: _STRING}


def to_tensor(name: str, dtype: str, value: Any) -> tensor_pb2.TensorProto:
    """Returns the JSON value of input `name`, nested lists or a scalar, as a tensor of `dtype`.

    Raises:
        InvalidRequestError: the lists are ragged, an element is not of `dtype`, or `dtype` has no JSON form.
    """
    shape = _shape(value)
    elements = _flat(name, value, shape)
    tensor = tensor_pb2.TensorProto()
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    if dtype == _STRING:
        tensor.dtype = tensor_pb2.DT_STRING
        tensor.string_val.extend(_to_bytes(name, element) for element in elements)
        return tensor
    kind = _KINDS.get(dtype)
    if kind is None:
        raise InvalidRequestError(f"input {name!r} is {dtype}, which cannot be given as JSON")
    tensor.dtype = kind.enum
    tensor.tensor_content = _packed(name, dtype, kind, elements)
    return tensor


def from_tensor(name: str, tensor: tensor_pb2.TensorProto) -> Any:
    """Returns output `name` as JSON values: nested lists by `tensor`'s shape, a scalar when it has no axes.

    Raises:
        ServerError: its element type has no JSON form, or its content does not fit its shape.
    """
    dtype = _NAMES.get(tensor.dtype)
    if dtype is None:
        raise ServerError(f"output {name!r} has an element type ({tensor.dtype}) that has no JSON form")
    shape = shape_of(tensor)
    elements = _elements(name, tensor, dtype, math.prod(shape))
    return _nested(elements, shape)


def shape_of(tensor: tensor_pb2.TensorProto) -> tuple[int, ...]:
    """Returns the sizes of `tensor` by axis."""
    return tuple(axis.size for axis in tensor.tensor_shape.dim)


def is_bytes_object(value: Any) -> bool:
    """Whether `value` is `{"b64": "…"}`, which is one element and not an object of named inputs."""
    return isinstance(value, dict) and value.keys() == {"b64"} and isinstance(value["b64"], str)


def _shape(value: Any) -> tuple[int, ...]:
    """Returns the shape that the first elements of `value` have; `_flat` checks the others."""
    sizes: list[int] = []
    while isinstance(value, list):
        sizes.append(len(value))
        if len(sizes) > MAX_RANK:
            raise InvalidRequestError(f"a tensor has at most {MAX_RANK} axes, but the lists are nested deeper")
        if not value:
            break
        value = value[0]
    return tuple(sizes)


def _flat(name: str, value: Any, shape: tuple[int, ...]) -> list[Any]:
    """Returns the elements in row-major order."""
    elements = [value]
    for size in shape:
        odd = next((element for element in elements if not isinstance(element, list) or len(element) != size), None)
        if odd is not None:
            found = f"{len(odd)} elements" if isinstance(odd, list) else repr(odd)
            raise InvalidRequestError(f"input {name!r} is ragged: {found} where others have a list of {size}")
        elements = list(itertools.chain.from_iterable(elements))
    if any(isinstance(element, list) for element in elements):
        raise InvalidRequestError(f"input {name!r} is ragged: a list stands where other places have a value")
    return elements


def _to_bytes(name: str, element: Any) -> bytes:
    if isinstance(element, str):
        return element.encode()
    if is_bytes_object(element):
        try:
            return base64.b64decode(element["b64"], validate=True)
        except binascii.Error as error:
            raise InvalidRequestError(f"input {name!r} has an element that is not base64: {error}") from error
    raise InvalidRequestError(f"input {name!r} is string, but {element!r} is none")


def _packed(name: str, dtype: str, kind: _Kind, elements: Sequence[Any]) -> bytes:
    for element in elements:
        if type(element) not in kind.accepts:
            raise InvalidRequestError(f"input {name!r} is {dtype}, but {element!r} is none")
    try:
        return struct.pack(f"<{len(elements)}{kind.code}", *elements)
    except (struct.error, OverflowError) as error:
        raise InvalidRequestError(f"input {name!r} has a value that {dtype} cannot hold: {error}") from error


def _elements(name: str, tensor: tensor_pb2.TensorProto, dtype: str, count: int) -> list[Any]:
    if dtype == _STRING:
        to_json = _bytes_object if name.endswith("_bytes") else _text
        return [to_json(element) for element in _filled(name, list(tensor.string_val), count, b"")]
    kind = _KINDS[dtype]
    if tensor.tensor_content:
        values = _unpacked(name, tensor.tensor_content, kind, count)
    else:
        values = _filled(name, list(getattr(tensor, kind.field)), count, False if dtype == "bool" else 0)
        if dtype == "float16":
            values = [struct.unpack("<e", struct.pack("<H", bits))[0] for bits in values]
    if "int" in dtype or dtype == "bool":
        return values
    return [_decimal(dtype, kind.code, float(value)) for value in values]


def _unpacked(name: str, content: bytes, kind: _Kind, count: int) -> list[Any]:
    layout = struct.Struct(f"<{count}{kind.code}")
    if len(content) != layout.size:
        raise ServerError(f"output {name!r} has {len(content)} bytes, but its shape needs {layout.size}")
    return list(layout.unpack(content))


def _filled(name: str, values: list[Any], count: int, zero: Any) -> list[Any]:
    """Returns `values` made up to `count`: TensorFlow leaves out repetitions of the last value (tensor.proto)."""
    if len(values) > count:
        raise ServerError(f"output {name!r} has {len(values)} values for {count} elements")
    return values + [values[-1] if values else zero] * (count - len(values))


def _bytes_object(element: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(element).decode()}


def _text(element: bytes) -> str:
    return element.decode(errors="replace")


def _decimal(dtype: str, code: str, value: float) -> float:
    """Returns what is left of `value` once the server's REST side has written it down (WriteDecimal)."""
    if dtype == "float64" or not math.isfinite(value):
        return value
    short = float(f"{value:.{_FEWEST_DIGITS}g}")
    with contextlib.suppress(OverflowError):  # the largest number, rounded up
        if struct.pack(f"<{code}", short) == struct.pack(f"<{code}", value):
            return short
    return float(f"{value:.{_MOST_DIGITS}g}")


def _nested(elements: list[Any], shape: tuple[int, ...]) -> Any:
    if not shape:
        return elements[0]
    for size in reversed(shape[1:]):
        count = len(elements) // size if size else 0
        elements = [elements[index * size : (index + 1) * size] for index in range(count)]
    if 0 in shape[1:]:
        return _empty(shape)
    return elements


def _empty(shape: tuple[int, ...]) -> Any:
    return [_empty(shape[1:]) for _ in range(shape[0])] if shape else None
