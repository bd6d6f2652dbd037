"""Reads what a TFLite file declares: a FlatBuffer whose schema is tensorflow/lite/schema/schema.fbs."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deployctl.domain.saved_model import PREDICT_METHOD, Signature, TensorSpec
from deployctl.errors import InvalidRequestError, MalformedGraphError
from deployctl.protos.tensor_pb2 import TensorProto
from deployctl.savedmodel.source import content
from deployctl.savedmodel.tflite_ops import OPERATORS, TYPES

# Positions of fields in the tables of the schema.
_VERSION, _CODES, _SUBGRAPHS, _DESCRIPTION, _BUFFERS, _SIGNATURES = 0, 1, 2, 3, 4, 7
_TENSORS, _INPUTS, _OUTPUTS, _OPERATORS = 0, 1, 2, 3
_SHAPE, _TYPE, _BUFFER, _NAME, _QUANTIZATION, _SHAPE_SIGNATURE = 0, 1, 2, 3, 4, 7
_SCALE = 2
_OLD_CODE, _CUSTOM, _NEW_CODE = 0, 1, 3
_CODE_INDEX = 0
_SIGNATURE_INPUTS, _SIGNATURE_OUTPUTS, _SIGNATURE_KEY, _SIGNATURE_GRAPH = 0, 1, 2, 4
_MAP_NAME, _MAP_INDEX = 0, 1
_DATA = 0
_CUSTOM_CODE = 32
# Every vector of a real file is far shorter; a hostile length must not keep the reader busy.
_MAX_VECTOR = 1_000_000


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor whose values are in the file; `quantized` where it has a scale."""

    spec: TensorSpec
    size: int
    quantized: bool


@dataclass(frozen=True, slots=True)
class TfliteModel:
    """What a TFLite file declares.

    Attributes:
        signatures: by key; a file without any has one named "" over the first subgraph's inputs and outputs.
        ops: builtin and custom operators with their number of occurrences.
        tensors: those with values, largest first.
    """

    version: int
    description: str
    signatures: Mapping[str, Signature]
    ops: Mapping[str, int]
    tensors: tuple[StoredTensor, ...]
    subgraphs: int
    size_bytes: int


def read_tflite(path: Path) -> TfliteModel:
    """Returns what the TFLite file at `path` declares.

    Raises:
        MalformedGraphError: it is cut short or malformed.
        UnreadableExportError: it cannot be read.
    """
    with content(path) as data:
        try:
            return _model(data)
        except (struct.error, IndexError, ValueError) as error:
            raise MalformedGraphError(
                str(path), f"is not a whole TFLite file: {error}", hint=f"sha256sum {path}"
            ) from error


def constant(path: Path, name: str) -> tuple[TensorSpec, TensorProto] | None:
    """Returns the stored tensor `name` of a TFLite file, its spec and its values; None without one.

    Raises:
        InvalidRequestError: it holds strings, which are stored in a form of their own.
        MalformedGraphError: as `read_tflite`.
    """
    with content(path) as data:
        try:
            root = _Table(data, _read("<I", data, 0))
            buffers = root.tables(_BUFFERS)
            for tensor in (each for graph in root.tables(_SUBGRAPHS) for each in graph.tables(_TENSORS)):
                if tensor.text(_NAME) == name and (stored := _stored(tensor, buffers)) is not None:
                    break
            else:
                return None
            start, size = buffers[tensor.number(_BUFFER, "<I")].vector(_DATA)
            values = bytes(data[start : start + size])
        except (struct.error, IndexError, ValueError) as error:
            raise MalformedGraphError(
                str(path), f"is not a whole TFLite file: {error}", hint=f"sha256sum {path}"
            ) from error
    if stored.spec.dtype == "string":
        raise InvalidRequestError(f"{name} is string, of which a TFLite file has no statistics")
    return stored.spec, TensorProto(tensor_content=values)


@dataclass(frozen=True, slots=True)
class _Table:
    """One table of the FlatBuffer (https://flatbuffers.dev/internals/)."""

    data: memoryview
    position: int

    def _field(self, index: int) -> int:
        """Where the field lies, 0 when it is left out."""
        vtable = self.position - _read("<i", self.data, self.position)
        slot = 4 + 2 * index
        if vtable < 0 or slot >= _read("<H", self.data, vtable):
            return 0
        offset = _read("<H", self.data, vtable + slot)
        return self.position + offset if offset else 0

    def number(self, index: int, layout: str, default: int = 0) -> int:
        at = self._field(index)
        return _read(layout, self.data, at) if at else default

    def table(self, index: int) -> _Table | None:
        at = self._field(index)
        return _Table(self.data, at + _read("<I", self.data, at)) if at else None

    def vector(self, index: int) -> tuple[int, int]:
        """Where the elements begin, and how many there are."""
        at = self._field(index)
        if not at:
            return 0, 0
        start = at + _read("<I", self.data, at)
        return start + 4, _read("<I", self.data, start)

    def text(self, index: int) -> str:
        start, length = self.vector(index)
        if start + length > len(self.data):
            raise ValueError(f"the text at byte {start} goes past the end")
        return bytes(self.data[start : start + length]).decode("utf-8", "replace")

    def numbers(self, index: int) -> tuple[int, ...]:
        start, length = self.vector(index)
        if length > _MAX_VECTOR:
            raise ValueError(f"the vector at byte {start} has {length} elements")
        return struct.unpack_from(f"<{length}i", self.data, start) if length else ()

    def tables(self, index: int) -> list[_Table]:
        start, length = self.vector(index)
        if length > _MAX_VECTOR:
            raise ValueError(f"the vector at byte {start} has {length} elements")
        places = range(start, start + 4 * length, 4)
        return [_Table(self.data, place + _read("<I", self.data, place)) for place in places]


def _read(layout: str, data: memoryview, position: int) -> int:
    if position < 0:
        raise ValueError(f"an offset leads to byte {position}")
    value: int = struct.unpack_from(layout, data, position)[0]
    return value


def _model(data: memoryview) -> TfliteModel:
    root = _Table(data, _read("<I", data, 0))
    codes = [_operator(code) for code in root.tables(_CODES)]
    graphs = root.tables(_SUBGRAPHS)
    if not graphs:
        raise ValueError("it has no subgraph")
    ops: Counter[str] = Counter()
    for graph in graphs:
        ops.update(codes[operator.number(_CODE_INDEX, "<I")] for operator in graph.tables(_OPERATORS))
    buffers = root.tables(_BUFFERS)
    stored = [found for graph in graphs for tensor in graph.tables(_TENSORS) if (found := _stored(tensor, buffers))]
    signatures = {
        each.text(_SIGNATURE_KEY): _signature(each, graphs[each.number(_SIGNATURE_GRAPH, "<I")])
        for each in root.tables(_SIGNATURES)
    }
    return TfliteModel(
        version=root.number(_VERSION, "<I"),
        description=root.text(_DESCRIPTION),
        signatures=signatures or {"": _whole(graphs[0])},
        ops=dict(sorted(ops.items())),
        tensors=tuple(sorted(stored, key=lambda each: (-each.size, each.spec.tensor))),
        subgraphs=len(graphs),
        size_bytes=len(data),
    )


def _operator(code: _Table) -> str:
    # Numbers above 127 do not fit the first of the two fields (schema.fbs, OperatorCode).
    number = max(code.number(_OLD_CODE, "<b"), code.number(_NEW_CODE, "<i"))
    if number == _CUSTOM_CODE:
        return code.text(_CUSTOM) or "CUSTOM"
    return OPERATORS[number] if 0 <= number < len(OPERATORS) else f"BUILTIN_{number}"


def _spec(tensor: _Table) -> TensorSpec:
    kind = tensor.number(_TYPE, "<b")
    shape = tensor.numbers(_SHAPE_SIGNATURE) or tensor.numbers(_SHAPE)
    return TensorSpec(
        TYPES[kind] if 0 <= kind < len(TYPES) else f"type {kind}",
        tuple(None if size < 0 else size for size in shape),
        tensor.text(_NAME),
    )


def _stored(tensor: _Table, buffers: list[_Table]) -> StoredTensor | None:
    index = tensor.number(_BUFFER, "<I")
    start, size = buffers[index].vector(_DATA)
    if not size:
        return None
    if start + size > len(tensor.data):
        raise ValueError(f"the values of {tensor.text(_NAME)} go past the end")
    quantization = tensor.table(_QUANTIZATION)
    return StoredTensor(_spec(tensor), size, quantization is not None and quantization.vector(_SCALE)[1] > 0)


def _signature(each: _Table, graph: _Table) -> Signature:
    tensors = graph.tables(_TENSORS)

    def named(index: int) -> dict[str, TensorSpec]:
        maps = [(entry.text(_MAP_NAME), entry.number(_MAP_INDEX, "<I")) for entry in each.tables(index)]
        return {name: _spec(tensors[place]) for name, place in sorted(maps)}

    return Signature(PREDICT_METHOD, named(_SIGNATURE_INPUTS), named(_SIGNATURE_OUTPUTS))


def _whole(graph: _Table) -> Signature:
    tensors = graph.tables(_TENSORS)
    sides = [[_spec(tensors[index]) for index in graph.numbers(field)] for field in (_INPUTS, _OUTPUTS)]
    inputs, outputs = ({spec.tensor: spec for spec in side} for side in sides)
    return Signature(PREDICT_METHOD, inputs, outputs)
