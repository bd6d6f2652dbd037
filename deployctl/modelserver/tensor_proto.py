"""NumPy arrays to TensorProto and back, by TensorFlow's rules (tensorflow/core/framework/tensor.cc)."""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from deployctl.modelserver import wire
from deployctl.modelserver.dtypes import BY_NUMBER, STRING, DType, dtype_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from deployctl.modelserver.interface import Tensor
    from deployctl.protos.tensor_pb2 import TensorProto

# A short list is repeated up to the shape's size, which the sender chooses: bounded, so that a request of a few
# bytes cannot take all memory. A protobuf message cannot be larger than this either.
_MAX_BYTES = 2**31 - 1
# NumPy's own limit; TensorFlow's is 254.
_MAX_DIMENSIONS = 64
_FIELD_NUMBERS = {
    "float_val": 5,
    "double_val": 6,
    "int_val": 7,
    "string_val": 8,
    "scomplex_val": 9,
    "int64_val": 10,
    "bool_val": 11,
    "dcomplex_val": 12,
    "half_val": 13,
    "uint32_val": 16,
    "uint64_val": 17,
    "float8_val": 18,
}
# How many values make reading the serialized list cheaper than asking for one value after the other.
_WORTH_SCANNING = 256
_FIXED_WIDTH = {"float_val": "<f4", "double_val": "<f8", "scomplex_val": "<c8", "dcomplex_val": "<c16"}


class TensorProtoError(ValueError):
    """A TensorProto that TensorFlow would not parse: shape, type and content disagree."""


def decode(proto: TensorProto) -> Tensor:
    """Returns the elements of `proto`, from `tensor_content` (without copying) or from the list for its type.

    A list shorter than the shape repeats its last value; a longer one is cut; an empty one means zeros or "".

    Raises:
        TensorProtoError: the type cannot be carried, the shape is unknown, negative or of too many dimensions, or
            the content is of another size.
    """
    dtype = BY_NUMBER.get(proto.dtype)
    if dtype is None:
        raise TensorProtoError(f"element type {proto.dtype} cannot be read")
    if proto.tensor_shape.unknown_rank:
        raise TensorProtoError("the rank is unknown")
    shape = tuple(dim.size for dim in proto.tensor_shape.dim)
    if len(shape) > _MAX_DIMENSIONS:
        raise TensorProtoError(f"it has {len(shape)} dimensions")
    count = math.prod(shape)
    if any(size < 0 for size in shape) or count * (dtype.numpy.itemsize or 1) > _MAX_BYTES:
        raise TensorProtoError(f"the shape {list(shape)} is not valid")
    if dtype.number == STRING:
        return _decode_strings(proto, count).reshape(shape)
    content = proto.tensor_content
    if content:
        if len(content) != count * dtype.numpy.itemsize:
            raise TensorProtoError(f"{len(content)} bytes of content for the shape {list(shape)}")
        return np.frombuffer(content, dtype=dtype.numpy).reshape(shape)
    return _stretch(_listed(proto, dtype), count, dtype).reshape(shape)


def encode(array: Tensor, *, as_content: bool = False) -> bytes:
    """Returns the serialized TensorProto of `array`.

    Args:
        array: numbers, or an object array of bytes.
        as_content: put numbers in `tensor_content`; by default each type has its list, which clients that read
            `float_val` rely on.
    """
    dtype = dtype_of(array)
    shape = b"".join(_dim(size) for size in array.shape)
    header = b"\x08" + wire.varint(dtype.number) + wire.length_delimited(2, shape)
    if array.size == 0:
        return header
    if dtype.number == STRING:
        return header + b"".join(wire.length_delimited(8, item) for item in array.ravel().tolist())
    if as_content:
        return header + wire.length_delimited(4, array.tobytes())
    return header + wire.length_delimited(_FIELD_NUMBERS[dtype.field], _list_payload(array, dtype))


def _dim(size: int) -> bytes:
    return wire.length_delimited(2, b"\x08" + wire.varint(size) if size else b"")


def _list_payload(array: Tensor, dtype: DType) -> bytes:
    field = dtype.field
    if field in _FIXED_WIDTH or field == "float8_val":
        return array.tobytes()
    flat: NDArray[Any] = np.ascontiguousarray(array).reshape(-1)
    if field == "half_val":
        return wire.packed_varints(flat.view(np.uint16))
    return wire.packed_varints(flat.view(dtype.wire))


def _listed(proto: TensorProto, dtype: DType) -> NDArray[Any]:
    """The values of the proto's list, as an array of the element type."""
    values = getattr(proto, dtype.field)
    if dtype.field == "float8_val":
        return np.frombuffer(values, dtype=np.uint8).view(dtype.numpy)
    width = _FIXED_WIDTH.get(dtype.field)
    if width is not None:
        return _fixed_width_values(proto, values, dtype, width)
    if dtype.field == "half_val":
        return np.fromiter(values, np.int32, len(values)).astype(np.uint16).view(dtype.numpy)
    carrier = {"int64_val": np.int64, "uint32_val": np.uint32, "uint64_val": np.uint64, "bool_val": np.bool_}
    listed: NDArray[Any] = np.fromiter(values, carrier.get(dtype.field, np.int32), len(values))
    return listed.astype(dtype.wire).view(dtype.numpy)


def _fixed_width_values(proto: TensorProto, values: Any, dtype: DType, width: str) -> NDArray[Any]:
    parts = 2 if dtype.numpy.kind == "c" else 1
    if len(values) < _WORTH_SCANNING:
        real = np.fromiter(values, np.dtype(width if parts == 1 else f"<f{dtype.numpy.itemsize // 2}"), len(values))
        return real[: len(real) // parts * parts].view(dtype.numpy)
    number = _FIELD_NUMBERS[dtype.field]
    found = [payload for field, _, payload in wire.fields(memoryview(proto.SerializeToString())) if field == number]
    payload = b"".join(found) if len(found) > 1 else found[0]
    size = len(payload) // dtype.numpy.itemsize
    return np.frombuffer(payload, dtype=dtype.numpy, count=size)


def _stretch(listed: NDArray[Any], count: int, dtype: DType) -> NDArray[Any]:
    if len(listed) >= count:
        return listed[:count]
    if len(listed) == 0:
        return np.zeros(count, dtype=dtype.numpy)
    full = np.empty(count, dtype=dtype.numpy)
    full[: len(listed)] = listed
    full[len(listed) :] = listed[-1]
    return full


def _decode_strings(proto: TensorProto, count: int) -> NDArray[Any]:
    strings = _encoded_list(proto.tensor_content, count) if proto.tensor_content else list(proto.string_val)
    last = strings[-1] if strings else b""
    array = np.empty(count, dtype=object)
    array[: len(strings)] = strings[:count]
    array[len(strings) :] = last
    return array


def _encoded_list(content: bytes, count: int) -> list[bytes]:
    """Reads `count` varint lengths, then the characters (tensorflow/core/platform/tensor_coding.cc)."""
    sizes, position = [], 0
    for _ in range(count):
        size = shift = 0
        while True:
            if position >= len(content):
                raise TensorProtoError("the encoded strings are cut short")
            byte = content[position]
            position += 1
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        sizes.append(size)
    if position + sum(sizes) != len(content):
        raise TensorProtoError("the encoded strings are of another size than they say")
    return list(struct.unpack_from("".join(f"{size}s" for size in sizes), content, position)) if sizes else []
