"""Reads the sorted string table that a checkpoint's `.index` file is: LevelDB's table format.

https://github.com/google/leveldb/blob/main/doc/table_format.md; TensorFlow has its own copy of the code in
tensorflow/core/lib/io/table*.cc.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from deployctl.savedmodel import wire
from deployctl.savedmodel.crc32c import crc32c, masked
from deployctl.savedmodel.snappy import SnappyError, decompress

_MAGIC = 0xDB4775248B80FB57
_FOOTER_BYTES = 48
# After each block: one byte for the compression, four for the checksum of the block and that byte.
_TRAILER_BYTES = 5
_UNCOMPRESSED, _SNAPPY = 0, 1
# TensorFlow's blocks are cut at 256 KiB; one value more may exceed that.
_MAX_BLOCK_BYTES = 16 << 20
# Checksums of larger tables would take seconds; their structure is still checked.
MAX_CHECKED_BYTES = 8 << 20
# Keys share prefixes. Real ones expand a few times; without a limit a small hostile file expands to gigabytes.
_MAX_EXPANSION, _MIN_EXPANDED_BYTES = 16, 1 << 20


class TableError(ValueError):
    """The file is not a whole sorted string table."""


def entries(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields the key and value of each entry, in key order.

    Raises:
        TableError: the file is truncated, altered or not a table.
    """
    try:
        yield from _entries(data)
    except (wire.WireError, SnappyError, struct.error, IndexError) as error:
        raise TableError(str(error)) from error


def _entries(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    if len(data) < _FOOTER_BYTES:
        raise TableError(f"it has {len(data)} bytes, less than a footer")
    footer = len(data) - _FOOTER_BYTES
    if struct.unpack_from("<Q", data, len(data) - 8) != (_MAGIC,):
        raise TableError("it does not end with the mark of a table, so that it is truncated or another format")
    view = memoryview(data)
    budget = _MIN_EXPANDED_BYTES + _MAX_EXPANSION * len(data)
    _, _, position = _handle(view, footer, len(data))
    index_offset, index_size, _ = _handle(view, position, len(data))
    reached, last = 0, b""
    for _, handle in _block(data, index_offset, index_size):
        offset, size, _ = _handle(memoryview(handle), 0, len(handle))
        if offset < reached:
            raise TableError(f"the block at byte {offset} overlaps the one before it")
        reached = offset + size + _TRAILER_BYTES
        for key, value in _block(data, offset, size):
            budget -= len(key)
            if budget < 0 or (last and key <= last):
                raise TableError(f"the keys of the block at byte {offset} are not in order")
            last = key
            yield key, value


def _handle(view: memoryview, position: int, end: int) -> tuple[int, int, int]:
    """Returns the offset and size of a block, and where the handle ends."""
    offset, position = wire.varint(view, position, end)
    size, position = wire.varint(view, position, end)
    return offset, size, position


def _block(data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    block = _block_bytes(data, offset, size)
    if len(block) < 4:
        raise TableError(f"the block at byte {offset} has {len(block)} bytes")
    (restarts,) = struct.unpack_from("<I", block, len(block) - 4)
    stop = len(block) - 4 - 4 * restarts
    if stop < 0:
        raise TableError(f"the block at byte {offset} says it has {restarts} restart points")
    yield from _block_entries(memoryview(block), stop)


def _block_bytes(data: bytes, offset: int, size: int) -> bytes:
    stop = offset + size
    if stop + _TRAILER_BYTES + _FOOTER_BYTES > len(data):
        raise TableError(f"the block at byte {offset} goes past the end of the file")
    compression, checksum = struct.unpack_from("<BI", data, stop)
    if len(data) <= MAX_CHECKED_BYTES and masked(crc32c(data[offset : stop + 1])) != checksum:
        raise TableError(f"the checksum of the block at byte {offset} is wrong")
    if compression == _UNCOMPRESSED:
        return data[offset:stop]
    if compression == _SNAPPY:
        return decompress(data[offset:stop], limit=_MAX_BLOCK_BYTES)
    raise TableError(f"the block at byte {offset} is compressed in the unknown way {compression}")


def _block_entries(view: memoryview, stop: int) -> Iterator[tuple[bytes, bytes]]:
    """An entry is: shared, unshared and value lengths; the unshared part of the key; the value."""
    key, position = b"", 0
    while position < stop:
        shared, position = wire.varint(view, position, stop)
        unshared, position = wire.varint(view, position, stop)
        length, position = wire.varint(view, position, stop)
        value_start = position + unshared
        if shared > len(key) or value_start + length > stop:
            raise TableError(f"the entry before byte {position} goes past its block")
        key = key[:shared] + bytes(view[position:value_start])
        position = value_start + length
        yield key, bytes(view[value_start:position])
