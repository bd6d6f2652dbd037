"""TensorFlow's element types (tensorflow/core/framework/types.proto) as NumPy's, and tensors as arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deployctl.client.call import Array
from deployctl.client.errors import BadRequestError, PredictionError
from deployctl.client.values import as_texts, as_utf8

if TYPE_CHECKING:
    from deployctl.protos import tensor_pb2

# "object" holds strings, as bytes.
NUMPY_NAMES = {
    "DT_FLOAT": "float32",
    "DT_DOUBLE": "float64",
    "DT_HALF": "float16",
    "DT_INT8": "int8",
    "DT_INT16": "int16",
    "DT_INT32": "int32",
    "DT_INT64": "int64",
    "DT_UINT8": "uint8",
    "DT_UINT16": "uint16",
    "DT_UINT32": "uint32",
    "DT_UINT64": "uint64",
    "DT_BOOL": "bool",
    "DT_COMPLEX64": "complex64",
    "DT_COMPLEX128": "complex128",
    "DT_STRING": "object",
}
# The field of a TensorProto that holds values of the type; int_val where none is named.
_FIELDS = {
    "float32": "float_val",
    "float64": "double_val",
    "int64": "int64_val",
    "uint32": "uint32_val",
    "uint64": "uint64_val",
    "bool": "bool_val",
    "object": "string_val",
}


def to_tensor(name: str, array: Array) -> tensor_pb2.TensorProto:
    """Returns `array` as the tensor of the input `name`.

    Raises:
        BadRequestError: TensorFlow has no such type.
        UnfitError: a string is none.
    """
    from deployctl.protos import tensor_pb2

    tensor = tensor_pb2.TensorProto()
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    if array.dtype.kind in "OSU":
        tensor.dtype = tensor_pb2.DT_STRING
        tensor.string_val.extend(item if isinstance(item, bytes) else as_utf8(item) for item in as_texts(array))
        return tensor
    kinds = {numpy: kind for kind, numpy in NUMPY_NAMES.items()}
    if array.dtype.name not in kinds:
        raise BadRequestError(f"the input {name!r} is {array.dtype}, which TensorFlow Serving does not take")
    tensor.dtype = getattr(tensor_pb2, kinds[array.dtype.name])
    tensor.tensor_content = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes()
    return tensor


def from_tensor(name: str, tensor: tensor_pb2.TensorProto) -> Array:
    """Returns the output `name` as an array; strings are an object array of bytes.

    Raises:
        PredictionError: NumPy has no such type.
    """
    from deployctl.protos import tensor_pb2

    kind = tensor_pb2.DataType.Name(tensor.dtype)
    dtype = NUMPY_NAMES.get(kind)
    if dtype is None:
        raise PredictionError(f"the output {name!r} is {kind}, which NumPy does not have")
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if tensor.tensor_content:
        return np.frombuffer(tensor.tensor_content, np.dtype(dtype).newbyteorder("<")).reshape(shape).astype(dtype)
    if dtype == "float16":
        flat = np.array(tensor.half_val, np.uint16).view(np.float16)
    elif dtype.startswith("complex"):
        pairs = tensor.scomplex_val if dtype == "complex64" else tensor.dcomplex_val
        flat = np.array(pairs, "float32" if dtype == "complex64" else "float64").view(dtype)
    else:
        values = getattr(tensor, _FIELDS.get(dtype, "int_val"))
        flat = np.empty(len(values), dtype)
        flat[:] = values
    # A tensor may give only the first of values that are all the same (tensor.proto).
    count = int(np.prod(shape))
    if 0 < flat.size < count:
        flat = np.concatenate([flat, np.repeat(flat[-1:], count - flat.size)])
    return flat.reshape(shape)
