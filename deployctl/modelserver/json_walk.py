"""JSON values to tensors one element at a time, in the order and with the words of upstream's json_tensor.cc.

This is the reference reading. `json_tensors` converts whole lists at once and comes here only when it cannot, which
is when a request is wrong; then the first fault that upstream would meet is the one that is reported.
"""

from __future__ import annotations

import binascii
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from deployctl.modelserver.interface import Code, StatusError
from deployctl.modelserver.json_print import FLOAT_MAX, value_text

if TYPE_CHECKING:
    from deployctl.domain.saved_model import TensorSpec
    from deployctl.modelserver.interface import Tensor

# NumPy's limit, below TensorFlow's of 254.
MAX_RANK = 64
# DataTypeString() of TensorFlow, where it differs from tf.DType.name.
_TYPE_NAMES = {"float32": "float", "float64": "double", "float16": "half"}
_INTEGER_RANGES = {
    **dict.fromkeys(("int8", "int16", "int32", "uint8"), (-(1 << 31), (1 << 31) - 1)),
    "int64": (-(1 << 63), (1 << 63) - 1),
    "uint32": (0, (1 << 32) - 1),
    "uint64": (0, (1 << 64) - 1),
}
# The largest integer that each type holds together with all below it, as upstream has it: one less than 2**digits.
EXACT_INTEGERS = {"float32": (1 << 24) - 1, "float64": (1 << 53) - 1}
_SPACES = str.maketrans("", "", " \t\n\v\f\r")


def invalid(message: str) -> NoReturn:
    """Raises INVALID_ARGUMENT."""
    raise StatusError(Code.INVALID_ARGUMENT, message)


def type_name(dtype: str) -> str:
    """TensorFlow's DataTypeString for a tf.DType name: "float" for "float32"."""
    return _TYPE_NAMES.get(dtype, dtype)


def json_type(value: object) -> str:
    """The type of a parsed value, by rapidjson's name for it."""
    if value is None:
        return "Null"
    if isinstance(value, bool):
        return "True" if value else "False"
    if isinstance(value, str):
        return "String"
    if isinstance(value, dict):
        return "Object"
    return "Array" if isinstance(value, list) else "Number"


def is_base64_object(value: object) -> bool:
    """Whether `value` is exactly {"b64": string}."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def decode_base64(value: object) -> bytes:
    """Decodes {"b64": string}; spaces are skipped, padding may be missing (absl::Base64Unescape)."""
    if not isinstance(value, dict) or not is_base64_object(value):
        invalid(f"JSON Value: {value_text(value)} not formatted correctly for base64 data")
    text = value["b64"].translate(_SPACES).replace(".", "=")
    bare = text.rstrip("=")
    padding = len(text) - len(bare)
    if padding and padding != -len(bare) % 4:
        invalid("Unable to base64 decode")
    try:
        return binascii.a2b_base64(bare + "=" * (-len(bare) % 4), strict_mode=True)
    except (binascii.Error, ValueError):
        invalid("Unable to base64 decode")


def encode_string(value: str) -> bytes:
    """The bytes of a JSON string, those that were no UTF-8 included."""
    return value.encode("utf-8", "surrogateescape")


def is_lossless(value: float, dtype: str) -> bool:
    """Whether upstream takes this number for a float32 or float64."""
    if isinstance(value, int):
        return abs(value) <= EXACT_INTEGERS[dtype]
    return dtype == "float64" or not math.isfinite(value) or abs(value) <= FLOAT_MAX


def walk_tensor(value: object, dtype: str) -> Tensor:
    """Converts one value or nested list."""
    shape = _shape(value)
    leaves: list[Any] = []
    _fill(value, 0, shape, dtype, leaves)
    return to_array(leaves, shape, dtype)


def walk_instances(elements: Sequence[object], inputs: Mapping[str, TensorSpec]) -> dict[str, Tensor]:
    """Converts "instances", an array that is not empty."""
    if not isinstance(elements[0], dict) and len(inputs) > 1:
        invalid(
            "instances is a plain list, but expecting list of objects as multiple "
            "input tensors required as per tensorinfo_map"
        )
    rows = _Rows(inputs)
    named = _is_row_object(elements[0])
    for number, element in enumerate(elements):
        if _is_row_object(element) != named:
            expected = "object but got list" if named else "value/list but got object"
            invalid(f"Expecting {expected} at item {number} of input list")
        if isinstance(element, dict) and named:
            rows.add_object(number, element)
        else:
            rows.add_plain(number, element)
    return rows.tensors(len(elements))


def walk_inputs(value: object, inputs: Mapping[str, TensorSpec]) -> dict[str, Tensor]:
    """Converts "inputs"."""
    if not isinstance(value, dict) or is_base64_object(value):
        if len(inputs) > 1:
            invalid(
                "inputs is a plain value/list, but expecting an object as multiple "
                "input tensors required as per tensorinfo_map"
            )
        name = min(inputs)
        return {name: walk_tensor(value, inputs[name].dtype)}
    tensors: dict[str, Tensor] = {}
    for name in sorted(inputs):
        if name not in value:
            invalid(f"Missing named input: {name} in 'inputs' object.")
        tensors[name] = walk_tensor(value[name], inputs[name].dtype)
    return tensors


def to_array(leaves: Sequence[object], shape: Sequence[int], dtype: str) -> Tensor:
    """Makes an array of checked leaves; integers too wide for an 8- or 16-bit type wrap, as in C."""
    import numpy as np

    if dtype == "string":
        array = np.empty(len(leaves), object)
        array[:] = leaves
        return array.reshape(shape)
    if dtype in ("int8", "int16", "uint8"):
        return np.array(leaves, np.int32).astype(dtype).reshape(shape)
    if dtype == "float32":
        return np.array(leaves, np.float64).astype(np.float32).reshape(shape)
    return np.array(leaves, dtype if dtype in _INTEGER_RANGES or dtype in ("float64", "bool") else object).reshape(
        shape
    )


class _Rows:
    """The tensors of "instances" while its elements are read one by one."""

    def __init__(self, inputs: Mapping[str, TensorSpec]) -> None:
        self._inputs = inputs
        self._names = sorted(inputs)
        self._leaves: dict[str, list[Any]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._sizes: dict[str, int] = {}

    def add_object(self, number: int, element: Mapping[str, object]) -> None:
        for name, value in element.items():
            try:
                self._add(name, value)
            except StatusError as error:
                invalid(
                    f"Failed to process element: {number} key: {name} of 'instances' list. "
                    f"Error: {error.code.name}: {error.message}"
                )
        if sorted(element) != self._names:
            invalid(
                f"Failed to process element: {number} of 'instances' list. JSON object: "
                f"{value_text(element)} keys must be equal to: {','.join(self._names)}"
            )

    def add_plain(self, number: int, element: object) -> None:
        try:
            self._add(self._names[0], element)
        except StatusError as error:
            invalid(
                f"Failed to process element: {number} of 'instances' list. Error: {error.code.name}: {error.message}"
            )

    def _add(self, name: str, value: object) -> None:
        if name not in self._inputs:
            invalid(f"JSON object: does not have named input: {name}")
        shape = _shape(value)
        leaves = self._leaves.setdefault(name, [])
        before = len(leaves)
        _fill(value, 0, shape, self._inputs[name].dtype, leaves)
        size = len(leaves) - before
        if name not in self._shapes:
            self._shapes[name], self._sizes[name] = shape, size
        elif self._sizes[name] != size:
            invalid(f"Expecting tensor size: {self._sizes[name]} but got: {size}")
        elif self._shapes[name] != shape:
            invalid(f"Expecting shape {_shape_text(self._shapes[name])} but got: {_shape_text(shape)}")

    def tensors(self, count: int) -> dict[str, Tensor]:
        return {
            name: to_array(leaves, (count, *self._shapes[name]), self._inputs[name].dtype)
            for name, leaves in self._leaves.items()
        }


def _is_row_object(value: object) -> bool:
    return isinstance(value, dict) and not is_base64_object(value)


def _shape_text(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"


def _shape(value: object) -> tuple[int, ...]:
    """The lengths of the first lists; a scalar has none."""
    shape: list[int] = []
    while isinstance(value, list):
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    if len(shape) >= MAX_RANK:
        invalid(f"Lists are nested {len(shape)} deep, but a tensor has at most {MAX_RANK - 1} dimensions here")
    return tuple(shape)


def _fill(value: object, level: int, shape: Sequence[int], dtype: str, leaves: list[Any]) -> None:
    rank = len(shape)
    if not isinstance(value, list):
        if level != rank:
            invalid(
                f"JSON Value: {value_text(value)} found at incorrect level: {level + 1} "
                f"in the JSON DOM. Expected at level: {rank}"
            )
        leaves.append(_leaf(value, dtype))
        return
    if level >= rank:
        invalid(f"Encountered list at unexpected level: {level} expected < {rank}")
    if len(value) != shape[level]:
        invalid(f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}")
    for element in value:
        _fill(element, level + 1, shape, dtype, leaves)


def _leaf(value: object, dtype: str) -> object:
    if isinstance(value, dict):
        return decode_base64(value) if dtype == "string" else _wrong_type(value, dtype)
    if dtype in EXACT_INTEGERS:
        if isinstance(value, bool) or not isinstance(value, int | float):
            _wrong_type(value, dtype)
        if not is_lossless(value, dtype):
            invalid(f"Cannot convert JSON value: {value_text(value)} to {type_name(dtype)} without loss of precision.")
        return value
    if dtype in _INTEGER_RANGES:
        lowest, highest = _INTEGER_RANGES[dtype]
        if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
            _wrong_type(value, dtype)
        return value
    if dtype == "string":
        return encode_string(value) if isinstance(value, str) else _wrong_type(value, dtype)
    if dtype == "bool":
        return value if isinstance(value, bool) else _wrong_type(value, dtype)
    raise StatusError(Code.UNIMPLEMENTED, f"Conversion of JSON Value: {value_text(value)} to type: {type_name(dtype)}")


def _wrong_type(value: object, dtype: str) -> NoReturn:
    invalid(f"JSON Value: {value_text(value)} Type: {json_type(value)} is not of expected type: {type_name(dtype)}")
