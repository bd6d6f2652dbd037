"""Element types and shapes, from their protocol buffers to TensorFlow's own words."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from deployctl.domain.saved_model import TensorSpec

if TYPE_CHECKING:
    from deployctl.protos.saved_model_pb2 import TensorInfo
    from deployctl.protos.tensor_pb2 import TensorShapeProto

# tf.DType.name is the enum's name in lower case but for these.
_OTHER_NAMES = {"float": "float32", "double": "float64", "half": "float16"}
_PREFIX, _REF = "dt_", "_ref"


@functools.lru_cache(maxsize=256)
def dtype_name(number: int) -> str:
    """Returns `tf.DType.name` for a number of the DataType enum: "float32", "string", "float32_ref".

    A number that this version does not know is "dtype(<number>)".
    """
    from deployctl.protos.tensor_pb2 import DataType

    known = DataType.DESCRIPTOR.values_by_number.get(number)
    if known is None:
        return f"dtype({number})"
    word = known.name.lower().removeprefix(_PREFIX)
    base = word.removesuffix(_REF)
    return _OTHER_NAMES.get(base, base) + word[len(base) :]


def shape_of(proto: TensorShapeProto) -> tuple[int | None, ...] | None:
    """Returns sizes by axis, None for a free axis (-1), or None when the rank is unknown."""
    if proto.unknown_rank:
        return None
    return tuple(dim.size if dim.size >= 0 else None for dim in proto.dim)


def tensor_spec(info: TensorInfo) -> TensorSpec:
    """Returns one input or output of a signature; a sparse or composite one has no tensor name."""
    return TensorSpec(dtype_name(info.dtype), shape_of(info.tensor_shape), info.name)
