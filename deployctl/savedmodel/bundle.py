"""Reads the index of a tensor bundle: which tensors a checkpoint holds, and where.

A bundle `<prefix>` is `<prefix>.index`, a sorted string table from keys to BundleEntryProto with a
BundleHeaderProto under the empty key, and the shards `<prefix>.data-00000-of-00001` with the bytes
(tensorflow/core/util/tensor_bundle/tensor_bundle.h).
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError

from deployctl.domain.saved_model import TensorSpec
from deployctl.errors import UnreadableExportError, VariablesMissingError, VariablesTruncatedError
from deployctl.protos.saved_model_pb2 import BundleEntryProto, BundleHeaderProto
from deployctl.savedmodel.dtypes import dtype_name, shape_of
from deployctl.savedmodel.sstable import TableError, entries

# The largest checkpoints in use have some hundred thousand tensors, of about 100 bytes each in the index.
MAX_INDEX_BYTES, MAX_TENSORS = 64 << 20, 500_000
_HEADER_KEY = b""
# The keys of the slices of a partitioned tensor begin so (EncodeTensorNameSlice); the tensor has its own entry.
_SLICE_PREFIX = b"\0"


@dataclass(frozen=True, slots=True)
class BundleEntry:
    """One tensor of a checkpoint.

    Attributes:
        spec: its type and shape; `tensor` is the key.
        shard: the number of the data file.
        offset: of its first byte in that file.
        size: in bytes; 0 for a tensor that is stored in slices.
        crc32c: of those bytes, masked.
    """

    spec: TensorSpec
    shard: int
    offset: int
    size: int
    crc32c: int


@dataclass(frozen=True, slots=True)
class Bundle:
    """The index of a checkpoint.

    Attributes:
        prefix: the path of the index without `.index`.
        shards: how many data files its writer made.
        big_endian: the byte order of the values.
        tensors: by key, in key order.
        shard_sizes: the least size in bytes of each data file that some tensor is in, by its number.
    """

    prefix: Path
    shards: int
    big_endian: bool
    tensors: Mapping[str, BundleEntry]
    shard_sizes: Mapping[int, int]

    @property
    def total_bytes(self) -> int:
        """The size of all values together."""
        return sum(entry.size for entry in self.tensors.values())

    def shard_path(self, number: int) -> Path:
        """The data file with that number."""
        return self.prefix.with_name(f"{self.prefix.name}.data-{number:05d}-of-{self.shards:05d}")

    def check_shards(self) -> None:
        """Returns if every data file that the index refers to is there and long enough.

        Raises:
            VariablesMissingError: one is absent.
            VariablesTruncatedError: one is shorter than the index says.
        """
        for number, wanted in self.shard_sizes.items():
            path = self.shard_path(number)
            try:
                found = path.stat()
            except OSError as error:
                raise VariablesMissingError(
                    str(path), "is absent, and variables.index refers to it", hint=f"ls -l {path.parent}"
                ) from error
            if not stat.S_ISREG(found.st_mode) or found.st_size < wanted:
                raise VariablesTruncatedError(
                    str(path), f"has {found.st_size} bytes, and its index says {wanted}", hint=f"ls -l {path.parent}"
                )


def read_bundle(prefix: Path) -> Bundle:
    """Returns what `<prefix>.index` lists.

    Raises:
        VariablesMissingError: there is no such file.
        VariablesTruncatedError: it is not a whole index.
        UnreadableExportError: it cannot be read.
    """
    path = prefix.with_name(prefix.name + ".index")
    try:
        return _bundle(prefix, _index_bytes(path))
    except (TableError, DecodeError, UnicodeDecodeError) as error:
        raise VariablesTruncatedError(
            str(path), f"cannot be read as the index of a checkpoint: {error}", hint=f"sha256sum {path}"
        ) from error


def _index_bytes(path: Path) -> bytes:
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise TableError("it is not a regular file")
        if found.st_size > MAX_INDEX_BYTES:
            raise TableError(f"it has {found.st_size} bytes, and the limit is {MAX_INDEX_BYTES}")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise VariablesMissingError(str(path), "is absent", hint=f"ls -l {path.parent}") from error
    except OSError as error:
        raise UnreadableExportError(str(path), f"cannot be read: {error.strerror}", hint=f"ls -l {path}") from error


def _bundle(prefix: Path, data: bytes) -> Bundle:
    header: BundleHeaderProto | None = None
    tensors: dict[str, BundleEntry] = {}
    shard_sizes: dict[int, int] = {}
    for key, value in entries(data):
        if key == _HEADER_KEY:
            header = BundleHeaderProto.FromString(value)
            continue
        proto = BundleEntryProto.FromString(value)
        if proto.offset < 0 or proto.size < 0 or proto.shard_id < 0:
            raise TableError(f"the entry {key!r} has a negative place or size")
        if not proto.slices:
            shard_sizes[proto.shard_id] = max(shard_sizes.get(proto.shard_id, 0), proto.offset + proto.size)
        if len(tensors) == MAX_TENSORS:
            raise TableError(f"it lists more than {MAX_TENSORS} tensors")
        if not key.startswith(_SLICE_PREFIX):
            tensors[key.decode()] = _entry(key.decode(), proto)
    if header is None:
        raise TableError("it has no header")
    big_endian = header.endianness == BundleHeaderProto.BIG
    return Bundle(prefix, header.num_shards, big_endian, tensors, dict(sorted(shard_sizes.items())))


def _entry(key: str, proto: BundleEntryProto) -> BundleEntry:
    spec = TensorSpec(dtype_name(proto.dtype), shape_of(proto.shape), key)
    return BundleEntry(spec, proto.shard_id, proto.offset, proto.size, proto.crc32c)
