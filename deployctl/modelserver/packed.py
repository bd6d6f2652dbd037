"""Arrays as JSON documents and back, exactly: how processes hand tensors to each other."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployctl.modelserver.dtypes import BY_NAME, dtype_of

Array = NDArray[Any]


def pack(array: Array) -> dict[str, Any]:
    """Returns `array` as a JSON document; elements of object arrays are bytes or text."""
    if array.dtype.kind in "OSU":
        strings = [item if isinstance(item, bytes) else str(item).encode() for item in array.ravel().tolist()]
        coded = [base64.b64encode(item).decode() for item in strings]
        return {"dtype": "string", "shape": list(array.shape), "strings": coded}
    data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"dtype": dtype_of(array).name, "shape": list(array.shape), "data": data}


def unpack(document: Mapping[str, Any]) -> Array:
    """Returns what `pack` was given; strings are an object array of bytes."""
    shape = tuple(document["shape"])
    if document["dtype"] == "string":
        array = np.empty(len(document["strings"]), dtype=object)
        array[:] = [base64.b64decode(item) for item in document["strings"]]
        return array.reshape(shape)
    data = base64.b64decode(document["data"])
    return np.frombuffer(data, BY_NAME[document["dtype"]].numpy).reshape(shape)


def to_json(array: Array, *, as_bytes: bool = False) -> Any:
    """Returns nested lists, or a scalar, as TensorFlow Serving's REST API gives them.

    Args:
        array: the values; a float32 gets as many digits as tell it from its neighbours.
        as_bytes: give strings as {"b64": …} objects.
    """
    if array.dtype.kind in "OSU":
        flat = np.empty(array.size, dtype=object)
        flat[:] = [_string(item, as_bytes=as_bytes) for item in array.ravel().tolist()]
        return flat.reshape(array.shape).tolist()
    if array.dtype.names == ("bfloat16",):
        array = (array["bfloat16"].astype("<u4") << 16).view("<f4")
    if array.dtype in (np.float32, np.float16):
        return array.astype(str).astype(np.float64).tolist()
    return array.tolist()


def _string(item: Any, *, as_bytes: bool) -> Any:
    data = item if isinstance(item, bytes) else str(item).encode()
    if not as_bytes:
        try:
            return data.decode()
        except UnicodeDecodeError:
            pass
    return {"b64": base64.b64encode(data).decode()}
