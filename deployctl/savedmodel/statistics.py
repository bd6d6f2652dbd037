"""Statistics of one tensor's values; NumPy does the arithmetic."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deployctl.domain.saved_model import TensorSpec
from deployctl.errors import DependencyError, InvalidRequestError
from deployctl.protos.tensor_pb2 import TensorProto

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SAMPLE = 10
_LISTS = {
    **dict.fromkeys(("int8", "uint8", "int16", "uint16", "int32"), "int_val"),
    "float32": "float_val",
    "float64": "double_val",
    "int64": "int64_val",
    "bool": "bool_val",
    "uint32": "uint32_val",
    "uint64": "uint64_val",
    "float16": "half_val",
    "bfloat16": "half_val",
}


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the values of a tensor are like.

    Attributes:
        count: of elements.
        zeros: how many are 0.
        not_finite: how many are infinite or no number; the other figures leave them out.
        first: the first ten in row-major order; strings as text, or {"b64": …} where they are none.
    """

    count: int
    zeros: int
    not_finite: int
    minimum: float | None
    maximum: float | None
    mean: float | None
    deviation: float | None
    first: tuple[Any, ...]


def statistics(spec: TensorSpec, tensor: TensorProto) -> Statistics:
    """Returns what the values of `tensor` are like.

    Raises:
        InvalidRequestError: elements of its type have no order, or its content does not fit its shape.
        DependencyError: NumPy is not installed.
    """
    if spec.dtype == "string":
        first = tuple(_text(value) for value in tensor.string_val[:_SAMPLE])
        return Statistics(len(tensor.string_val), 0, 0, None, None, None, None, first)
    try:
        import numpy as np
    except ImportError as error:
        raise DependencyError(
            "statistics need NumPy, which is not installed", hint="pip install 'deployctl[tensorflow]'"
        ) from error
    values = _values(spec, tensor)
    wide = values.astype(np.float64)
    finite = wide[np.isfinite(wide)]
    figures: tuple[float | None, float | None, float | None, float | None] = (None, None, None, None)
    if finite.size:
        figures = (float(finite.min()), float(finite.max()), float(finite.mean()), float(finite.std()))
    first = tuple(value.item() for value in values[:_SAMPLE])
    return Statistics(int(wide.size), int((wide == 0).sum()), int(wide.size - finite.size), *figures, first)


def _values(spec: TensorSpec, tensor: TensorProto) -> NDArray[np.generic]:
    """The elements in row-major order; a TensorProto may leave out repetitions of its last value."""
    import numpy as np

    if spec.dtype not in _LISTS:
        raise InvalidRequestError(f"{spec.tensor} is {spec.dtype}, of which there are no statistics")
    kind = np.dtype("<u2" if spec.dtype == "bfloat16" else spec.dtype)
    if tensor.tensor_content:
        values = np.frombuffer(tensor.tensor_content, kind.newbyteorder("<"))
    else:
        listed = np.array(getattr(tensor, _LISTS[spec.dtype]))
        values = listed.astype("<u2").view(kind) if spec.dtype == "float16" else listed.astype(kind)
    if spec.dtype == "bfloat16":
        values = (values.astype("<u4") << 16).view("<f4")
    count = math.prod(size or 0 for size in spec.shape or ())
    if not values.size:
        return np.zeros(count, values.dtype)
    if values.size > count:
        raise InvalidRequestError(f"{spec.tensor} has {values.size} values for {count} elements")
    return np.concatenate([values, np.repeat(values[-1:], count - values.size)])


def _text(value: bytes) -> Any:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(value).decode()}
