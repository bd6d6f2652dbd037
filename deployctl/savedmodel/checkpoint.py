"""Reads checkpoints, of both formats, without TensorFlow: names, types, shapes, sizes and values.

The second format is a tensor bundle (see `bundle`). The first is one table file, whose empty key holds a
SavedTensorSlices with the names and whose others hold the values (tensorflow/core/util/saved_tensor_slice.proto).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError

from deployctl.domain.saved_model import TensorSpec
from deployctl.errors import NotFoundError, UnreadableExportError, VariablesTruncatedError
from deployctl.protos.saved_model_pb2 import TrackableObjectGraph
from deployctl.protos.tensor_pb2 import DataType, TensorProto, TensorShapeProto
from deployctl.savedmodel import wire
from deployctl.savedmodel.bundle import MAX_INDEX_BYTES, BundleEntry, read_bundle
from deployctl.savedmodel.crc32c import crc32c, masked
from deployctl.savedmodel.dtypes import dtype_name, shape_of
from deployctl.savedmodel.meta_graph import OBJECT_GRAPH_KEY
from deployctl.savedmodel.sstable import MAX_CHECKED_BYTES, TableError, entries

# Field numbers of saved_tensor_slice.proto.
_META, _DATA = 1, 2
_META_TENSOR = 1
_TENSOR_NAME, _TENSOR_SHAPE, _TENSOR_TYPE = 1, 2, 3
_SLICE_NAME, _SLICE_DATA = 1, 3
_BYTES_OF_LENGTHS_CHECKSUM = 4


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a checkpoint.

    Attributes:
        key: what the checkpoint calls it.
        name: the variable's own name; the key where the checkpoint does not say.
        size: in bytes, 0 for a tensor that is stored in slices.
    """

    key: str
    name: str
    spec: TensorSpec
    size: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        format: "v1" or "v2".
        has_graph: whether its `.meta` file is there.
    """

    prefix: Path
    format: str
    tensors: tuple[StoredTensor, ...]
    has_graph: bool

    @property
    def total_bytes(self) -> int:
        """The size of all values together."""
        return sum(tensor.size for tensor in self.tensors)

    def find(self, name: str) -> StoredTensor:
        """Returns the tensor with that name or key; ":0" may follow.

        Raises:
            NotFoundError: there is none.
        """
        wanted = name.removesuffix(":0")
        for tensor in self.tensors:
            if wanted in (tensor.key, tensor.name):
                return tensor
        raise NotFoundError(
            f"{self.prefix} holds no tensor {name!r}", hint=f"deployctl inspect {self.prefix} --variables"
        )

    def value(self, tensor: StoredTensor) -> TensorProto:
        """Returns the values of `tensor`; numbers as `tensor_content`, strings as `string_val`.

        Raises:
            VariablesMissingError, VariablesTruncatedError: the data file is absent, cut short or altered.
            NotFoundError: it is stored in slices, which are not put together here.
        """
        if self.format == "v1":
            return _first_format_value(self.prefix, tensor)
        bundle = read_bundle(self.prefix)
        bundle.check_shards()
        entry = bundle.tensors[tensor.key]
        if not entry.size and tensor.spec.dtype != "string" and 0 not in (tensor.spec.shape or ()):
            raise NotFoundError(f"{tensor.key} of {self.prefix} is partitioned, and its slices have names of their own")
        return _proto(entry, _bytes_of(bundle.shard_path(entry.shard), entry))


def read_checkpoint(prefix: Path) -> Checkpoint:
    """Returns what the checkpoint with that prefix holds.

    Raises:
        VariablesMissingError: there is no index.
        VariablesTruncatedError: the index is not whole.
        UnreadableExportError: a file cannot be read.
    """
    has_graph = prefix.with_name(f"{prefix.name}.meta").is_file()
    if not prefix.with_name(f"{prefix.name}.index").is_file() and prefix.is_file():
        return Checkpoint(prefix, "v1", _first_format(prefix), has_graph)
    bundle = read_bundle(prefix)
    names = _full_names(prefix, bundle.tensors)
    tensors = tuple(
        StoredTensor(key, names.get(key, key), entry.spec, entry.size)
        for key, entry in bundle.tensors.items()
        if key != OBJECT_GRAPH_KEY
    )
    return Checkpoint(prefix, "v2", tensors, has_graph)


def _full_names(prefix: Path, tensors: Mapping[str, BundleEntry]) -> dict[str, str]:
    """The names of variables by key, which TensorFlow 2 writes beside them; {} where they cannot be read."""
    entry = tensors.get(OBJECT_GRAPH_KEY)
    if entry is None or not 0 < entry.size <= MAX_INDEX_BYTES:
        return {}
    try:
        bundle = read_bundle(prefix)
        tensor = _proto(entry, _bytes_of(bundle.shard_path(entry.shard), entry))
        graph = TrackableObjectGraph.FromString(tensor.string_val[0])
    except (OSError, DecodeError, IndexError, VariablesTruncatedError, UnreadableExportError):
        return {}
    return {
        attribute.checkpoint_key: attribute.full_name or attribute.checkpoint_key
        for node in graph.nodes
        for attribute in node.attributes
    }


def _bytes_of(shard: Path, entry: BundleEntry) -> bytes:
    try:
        with shard.open("rb") as stream:
            stream.seek(entry.offset)
            data = stream.read(entry.size)
    except OSError as error:
        raise UnreadableExportError(str(shard), f"cannot be read: {error.strerror}", hint=f"ls -l {shard}") from error
    if len(data) < entry.size:
        raise VariablesTruncatedError(str(shard), f"ends within {entry.spec.tensor}", hint=f"ls -l {shard}")
    # The checksum of strings covers their lengths in another form (tensor_bundle.cc, WriteStringTensor).
    if entry.spec.dtype != "string" and len(data) <= MAX_CHECKED_BYTES and masked(crc32c(data)) != entry.crc32c:
        raise VariablesTruncatedError(
            str(shard), f"has other bytes for {entry.spec.tensor} than were written", hint=f"sha256sum {shard}"
        )
    return data


def _proto(entry: BundleEntry, data: bytes) -> TensorProto:
    tensor = TensorProto(dtype=_enum_name(entry.spec.dtype), tensor_shape=_shape_proto(entry.spec))
    if entry.spec.dtype == "string":
        tensor.string_val.extend(_strings(data, _count(entry.spec)))
    else:
        tensor.tensor_content = data
    return tensor


def _strings(data: bytes, count: int) -> list[bytes]:
    """Lengths as varints, four bytes of checksum, then the characters (tensor_bundle.cc, ReadStringTensor)."""
    view, position, lengths = memoryview(data), 0, []
    try:
        for _ in range(count):
            length, position = wire.varint(view, position, len(data))
            lengths.append(length)
    except wire.WireError as error:
        raise VariablesTruncatedError("", f"a string tensor is malformed: {error}") from error
    position += _BYTES_OF_LENGTHS_CHECKSUM
    strings = []
    for length in lengths:
        strings.append(data[position : position + length])
        position += length
    return strings


def _enum_name(dtype: str) -> str:
    names = (value.name for value in DataType.DESCRIPTOR.values if dtype_name(value.number) == dtype)
    return next(names, "DT_INVALID")


def _shape_proto(spec: TensorSpec) -> TensorShapeProto:
    return TensorShapeProto(dim=[TensorShapeProto.Dim(size=size or 0) for size in spec.shape or ()])


def _count(spec: TensorSpec) -> int:
    count = 1
    for size in spec.shape or ():
        count *= size or 0
    return count


def _first_format(path: Path) -> tuple[StoredTensor, ...]:
    for key, value in _table(path):
        if not key:
            return tuple(sorted(_first_format_names(value), key=lambda tensor: tensor.key))
    raise VariablesTruncatedError(str(path), "lists no tensors", hint=f"sha256sum {path}")


def _table(path: Path) -> list[tuple[bytes, bytes]]:
    try:
        return list(entries(path.read_bytes()))
    except TableError as error:
        raise VariablesTruncatedError(
            str(path), f"cannot be read as a checkpoint: {error}", hint=f"sha256sum {path}"
        ) from error
    except OSError as error:
        raise UnreadableExportError(str(path), f"cannot be read: {error.strerror}", hint=f"ls -l {path}") from error


def _first_format_names(value: bytes) -> list[StoredTensor]:
    walker, found = wire.Walker(memoryview(value)), []
    for meta in walker.messages(0, len(value), _META):
        for start, stop in walker.messages(*meta, _META_TENSOR):
            name, shape, dtype = "", TensorShapeProto(), 0
            for field in walker.fields(start, stop):
                if field.number == _TENSOR_NAME:
                    name = value[slice(*field.content())].decode()
                elif field.number == _TENSOR_SHAPE:
                    shape = TensorShapeProto.FromString(value[slice(*field.content())])
                elif field.number == _TENSOR_TYPE:
                    dtype = field.value
            spec = TensorSpec(dtype_name(dtype), shape_of(shape), name)
            found.append(StoredTensor(name, name, spec, _count(spec) * _ELEMENT_BYTES.get(spec.dtype, 0)))
    return found


_ELEMENT_BYTES: Mapping[str, int] = {
    **dict.fromkeys(("float64", "int64", "uint64", "complex64"), 8),
    **dict.fromkeys(("float32", "int32", "uint32"), 4),
    **dict.fromkeys(("float16", "bfloat16", "int16", "uint16"), 2),
    **dict.fromkeys(("int8", "uint8", "bool"), 1),
}


def _first_format_value(path: Path, tensor: StoredTensor) -> TensorProto:
    found: list[TensorProto] = []
    for key, value in _table(path):
        if not key:
            continue
        walker = wire.Walker(memoryview(value))
        for start, stop in walker.messages(0, len(value), _DATA):
            if walker.last_bytes(start, stop, _SLICE_NAME) == tensor.key.encode():
                places = walker.messages(start, stop, _SLICE_DATA)
                found += [TensorProto.FromString(value[slice(*place)]) for place in places]
    if len(found) != 1:
        raise NotFoundError(f"{tensor.key} of {path} is partitioned into {len(found)} slices")
    found[0].MergeFrom(TensorProto(dtype=_enum_name(tensor.spec.dtype), tensor_shape=_shape_proto(tensor.spec)))
    return found[0]
