"""JSON request bodies to tensors and to serialized tf.Examples, as upstream's util/json_tensor.cc reads them.

Lists are flattened and converted whole, by C loops; whatever does not convert plainly is read again by `json_walk`,
which finds the fault, or the rare reading that is right after all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NoReturn, Self

from deployctl.modelserver.interface import StatusError
from deployctl.modelserver.json_print import FLOAT_MAX, value_text
from deployctl.modelserver.json_text import parse_object
from deployctl.modelserver.json_walk import (
    EXACT_INTEGERS,
    MAX_RANK,
    decode_base64,
    encode_string,
    invalid,
    is_base64_object,
    is_lossless,
    json_type,
    to_array,
    walk_inputs,
    walk_instances,
)

if TYPE_CHECKING:
    from deployctl.domain.saved_model import TensorSpec
    from deployctl.modelserver.interface import Tensor
    from deployctl.protos import example_pb2

_INTEGERS = frozenset(("int8", "int16", "int32", "int64", "uint8", "uint32", "uint64"))


@dataclass(frozen=True, slots=True)
class PredictRequest:
    """A predict request whose tensors wait for the signature's types.

    Attributes:
        signature_name: "" means the default signature.
        by_row: whether it came as "instances" and is answered with "predictions".
    """

    signature_name: str
    by_row: bool
    _document: dict[str, Any]

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Reads the JSON and the signature's name.

        Raises:
            StatusError: INVALID_ARGUMENT in upstream's words.
        """
        document = parse_object(body)
        return cls(_signature_name(document), "instances" in document, document)

    def tensors(self, inputs: Mapping[str, TensorSpec]) -> dict[str, Tensor]:
        """Converts the values for a signature with these inputs.

        Raises:
            StatusError: in upstream's words; INVALID_ARGUMENT, or UNIMPLEMENTED for a type that JSON cannot feed.
        """
        if not inputs:
            invalid(f"Failed to get input map for signature: {self.signature_name or 'DEFAULT'}")
        document = self._document
        if not self.by_row:
            if "inputs" not in document:
                invalid("Missing 'inputs' or 'instances' key")
            return _fast_inputs(document["inputs"], inputs) or walk_inputs(document["inputs"], inputs)
        elements = document["instances"]
        if "inputs" in document:
            _refuse(document, "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist ")
        if not isinstance(elements, list):
            _refuse(document, "Excepting 'instances' to be an list/array")
        if not elements:
            _refuse(document, "No values in 'instances' array")
        return _fast_instances(elements, inputs) or walk_instances(elements, inputs)


@dataclass(frozen=True, slots=True)
class ExamplesRequest:
    """A classify or regress request: one serialized tf.Example each, the context merged into them."""

    signature_name: str
    examples: list[bytes]

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Reads the JSON and builds the examples.

        Raises:
            StatusError: INVALID_ARGUMENT in upstream's words.
        """
        document = parse_object(body)
        signature_name = _signature_name(document)
        # A serialized message in front of another is that message merged into it, which is what a context means.
        context = _example(document["context"]) if "context" in document else b""
        if "examples" not in document:
            _refuse(document, "When method is classify, key 'examples' is expected and was not found")
        examples = document["examples"]
        if not isinstance(examples, list):
            _refuse(document, "Expecting 'examples' value to be an list/array")
        if not examples:
            _refuse(document, "'examples' value is an empty array")
        return cls(signature_name, [context + _example(example) for example in examples])


def _signature_name(document: Mapping[str, Any]) -> str:
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        _refuse(document, "not formatted correctly. 'signature_name' key must be a string value.")
    return name


def _refuse(document: object, reason: str) -> NoReturn:
    invalid(f"JSON Value: {value_text(document)} {reason}")


def _fast_instances(elements: list[Any], inputs: Mapping[str, TensorSpec]) -> dict[str, Tensor] | None:
    first = elements[0]
    if not isinstance(first, dict) or is_base64_object(first):
        if len(inputs) > 1:
            return None
        name = next(iter(inputs))
        array = _fast_list(elements, inputs[name].dtype)
        return None if array is None else {name: array}
    if "b64" in inputs or set(map(type, elements)) != {dict} or set(map(len, elements)) != {len(inputs)}:
        return None
    tensors: dict[str, Tensor] = {}
    for name, spec in inputs.items():
        try:
            column = list(map(itemgetter(name), elements))
        except KeyError:
            return None
        array = _fast_list(column, spec.dtype)
        if array is None:
            return None
        tensors[name] = array
    return tensors


def _fast_inputs(value: object, inputs: Mapping[str, TensorSpec]) -> dict[str, Tensor] | None:
    if not isinstance(value, dict):
        value = {next(iter(inputs)): value} if len(inputs) == 1 else {}
    tensors: dict[str, Tensor] = {}
    for name, spec in inputs.items():
        column = value.get(name)
        array = _fast_list(column, spec.dtype) if isinstance(column, list) else None
        if array is None:
            return None
        tensors[name] = array
    return tensors


def _fast_list(elements: list[Any], dtype: str) -> Tensor | None:
    """Converts a dense list whose leaves all fit; None when in doubt."""
    shape = [len(elements)]
    types = set(map(type, elements))
    while types == {list}:
        lengths = set(map(len, elements))
        if len(lengths) > 1 or len(shape) == MAX_RANK:
            return None
        shape.append(lengths.pop())
        elements = list(chain.from_iterable(elements))
        types = set(map(type, elements))
    return _fast_leaves(elements, types, shape, dtype)


def _fast_leaves(leaves: list[Any], types: set[type], shape: list[int], dtype: str) -> Tensor | None:
    if dtype == "string":
        if types <= {str}:
            return to_array(list(map(encode_string, leaves)), shape, dtype)
        if types == {dict}:
            try:
                return to_array(list(map(decode_base64, leaves)), shape, dtype)
            except StatusError:
                return None
        return None
    if dtype == "bool":
        return to_array(leaves, shape, dtype) if types <= {bool} else None
    if dtype in EXACT_INTEGERS:
        return _fast_floats(leaves, types, shape, dtype) if types <= {int, float} else None
    return _fast_integers(leaves, shape, dtype) if dtype in _INTEGERS and types <= {int} else None


def _fast_floats(leaves: list[Any], types: set[type], shape: list[int], dtype: str) -> Tensor | None:
    import numpy as np

    wide = np.array(leaves, np.float64)
    limit = EXACT_INTEGERS[dtype] if int in types else FLOAT_MAX
    beyond = np.abs(wide) > limit
    if beyond.any() and not all(is_lossless(leaf, dtype) for leaf in leaves):
        return None
    return wide.astype(dtype, copy=False).reshape(shape)


def _fast_integers(leaves: list[Any], shape: list[int], dtype: str) -> Tensor | None:
    import numpy as np

    # Upstream reads 8- and 16-bit integers as 32-bit ones, without a look at their range.
    target = np.dtype("int32" if dtype in ("int8", "int16", "uint8") else dtype)
    try:
        wide = np.array(leaves, np.uint64 if dtype == "uint64" else np.int64)
    except OverflowError:
        return None
    if target.itemsize < wide.itemsize:
        info = np.iinfo(target)
        if wide.size and (wide.min() < info.min or wide.max() > info.max):
            return None
    return wide.astype(target, copy=False).astype(dtype, copy=False).reshape(shape)


def _example(value: object) -> bytes:
    if not isinstance(value, dict):
        invalid(f"Example must be JSON object but got JSON {json_type(value)}")
    from deployctl.protos import example_pb2

    example = example_pb2.Example()
    for name, content in value.items():
        # An empty list still names its feature, as one without a kind.
        feature = example.features.feature[name]
        for element in content if isinstance(content, list) else [content]:
            _add_to_feature(element, name, feature)
    serialized: bytes = example.SerializeToString(deterministic=True)
    return serialized


def _add_to_feature(value: object, name: str, feature: example_pb2.Feature) -> None:
    if value is None or isinstance(value, list) or (isinstance(value, dict) and not is_base64_object(value)):
        invalid(f"Feature: {name} has element with unexpected JSON type: {json_type(value)}")
    if isinstance(value, str | dict):
        _expect_kind(feature, name, "bytes_list")
        feature.bytes_list.value.append(encode_string(value) if isinstance(value, str) else decode_base64(value))
    elif isinstance(value, float):
        _expect_kind(feature, name, "float_list")
        if not is_lossless(value, "float32"):
            invalid(f"Cannot convert JSON value: {value_text(value)} to float without loss of precision.")
        feature.float_list.value.append(value)
    elif isinstance(value, int):
        _expect_kind(feature, name, "int64_list")
        if value >= 1 << 63:
            invalid(f"Feature: {name} has uint64 element. Only int64 is supported.")
        feature.int64_list.value.append(int(value))


def _expect_kind(feature: example_pb2.Feature, name: str, wanted: str) -> None:
    kind = feature.WhichOneof("kind")
    if kind not in (None, wanted):
        invalid(f"Unexpected element type in feature: {name} expecting type: {kind.removesuffix('_list')}")
