"""Writes sorted string tables and tensor-bundle indexes, so that tests can have damaged and odd ones."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from deployctl.protos.saved_model_pb2 import BundleEntryProto, BundleHeaderProto
from deployctl.savedmodel.crc32c import crc32c, masked

_MAGIC = 0xDB4775248B80FB57


def varint(number: int) -> bytes:
    """The wire format of an unsigned number."""
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def entry(shared: int, key: bytes, value: bytes) -> bytes:
    """One entry of a block, whose key shares `shared` bytes with the one before it."""
    return varint(shared) + varint(len(key)) + varint(len(value)) + key + value


def block(*entries: bytes) -> bytes:
    """A block with a single restart point, without trailer."""
    return b"".join(entries) + struct.pack("<II", 0, 1)


def trailed(content: bytes, compression: int = 0) -> bytes:
    """A block with its trailer."""
    kind = bytes([compression])
    return content + kind + struct.pack("<I", masked(crc32c(content + kind)))


def table(*blocks: bytes, compression: int = 0) -> bytes:
    """A table of data blocks, which are given without trailers."""
    out, handles = b"", []
    for content in blocks:
        handles.append(varint(len(out)) + varint(len(content)))
        out += trailed(content, compression)
    meta = varint(len(out)) + varint(8)
    out += trailed(block())
    index = block(*(entry(0, b"k%05d" % number, handle) for number, handle in enumerate(handles)))
    footer = meta + varint(len(out)) + varint(len(index))
    return out + trailed(index) + footer.ljust(40, b"\0") + struct.pack("<Q", _MAGIC)


def bundle_index(tensors: Mapping[str, BundleEntryProto], *, shards: int = 1) -> bytes:
    """The index of a tensor bundle."""
    header = BundleHeaderProto(num_shards=shards).SerializeToString()
    values = {b"": header, **{key.encode(): proto.SerializeToString() for key, proto in tensors.items()}}
    return table(block(*(entry(0, key, values[key]) for key in sorted(values))))
