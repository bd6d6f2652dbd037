"""Protocol Buffers' wire format, for the few places where a message object per value would be too slow.

https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
_FIXED_SIZE = {FIXED64: 8, FIXED32: 4}


def varint(value: int) -> bytes:
    """Encodes a non-negative integer."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def length_delimited(number: int, *payload: bytes) -> bytes:
    """Encodes field `number` with the joined payload: a message, string, bytes or packed list."""
    size = sum(map(len, payload))
    return b"".join((varint(number << 3 | LENGTH), varint(size), *payload))


def packed_varints(values: NDArray[Any]) -> bytes:
    """Encodes integers or booleans as the payload of a packed list; negative ones take ten bytes, as in C++."""
    if values.size == 0:
        return b""
    unsigned = values.astype(np.int64).view(np.uint64) if values.dtype.kind == "i" else values.astype(np.uint64)
    largest = int(unsigned.max())
    if largest < 0x80:
        return bytes(unsigned.astype(np.uint8))
    width = (largest.bit_length() + 6) // 7
    shifts = np.arange(width, dtype=np.uint64) * np.uint64(7)
    digits = unsigned.reshape(-1, 1) >> shifts
    used = digits != 0
    used[:, 0] = True
    groups = (digits & np.uint64(0x7F)).astype(np.uint8)
    groups[:, :-1] |= used[:, 1:].astype(np.uint8) << 7
    return bytes(groups[used])


def fields(message: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """Yields each field of a serialized message as (number, wire type, payload), without copying.

    The payload of a varint is its own bytes.

    Raises:
        ValueError: the message is cut short or not in the wire format.
    """
    position, end = 0, len(message)
    while position < end:
        key, position = _read_varint(message, position)
        kind = key & 7
        start = position
        if kind == VARINT:
            _, position = _read_varint(message, position)
        elif kind == LENGTH:
            size, start = _read_varint(message, position)
            position = start + size
        elif kind in _FIXED_SIZE:
            position += _FIXED_SIZE[kind]
        else:
            raise ValueError(f"wire type {kind} at byte {start}")
        if position > end:
            raise ValueError(f"field {key >> 3} ends after the message")
        yield key >> 3, kind, message[start:position]


def _read_varint(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(message):
            raise ValueError("a number ends after the message")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
