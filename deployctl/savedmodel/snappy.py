"""Decompresses Snappy blocks (https://github.com/google/snappy/blob/main/format_description.txt).

TensorFlow's released packages write checkpoint indexes uncompressed; exports made inside Google, such as the
example models of TensorFlow Serving, have them compressed, and TensorFlow reads both.
"""

from __future__ import annotations

from deployctl.savedmodel import wire

_LITERAL, _COPY_1, _COPY_2 = 0, 1, 2


class SnappyError(ValueError):
    """The bytes are not a whole Snappy block."""


def decompress(data: bytes, *, limit: int) -> bytes:
    """Returns what `data` was made from.

    Raises:
        SnappyError: it is damaged, or says that it expands to more than `limit` bytes.
    """
    view, end = memoryview(data), len(data)
    try:
        size, position = wire.varint(view, 0, end)
        if size > limit:
            raise SnappyError(f"it expands to {size} bytes, and the limit is {limit}")
        output = bytearray()
        while position < end and len(output) <= size:
            position = _element(view, position, output)
    except (wire.WireError, IndexError) as error:
        raise SnappyError("it ends in the middle of an element") from error
    if len(output) != size or position != end:
        raise SnappyError(f"it expands to {len(output)} bytes instead of {size}")
    return bytes(output)


def _element(view: memoryview, position: int, output: bytearray) -> int:
    """Appends one literal or copy and returns where the next one begins."""
    tag = view[position]
    kind, high = tag & 3, tag >> 2
    position += 1
    if kind == _LITERAL:
        extra = max(0, high - 59)
        length = 1 + (int.from_bytes(view[position : position + extra], "little") if extra else high)
        start = position + extra
        if start + length > len(view):
            raise IndexError
        output += view[start : start + length]
        return start + length
    if kind == _COPY_1:
        length, offset, width = 4 + (high & 7), high >> 3 << 8 | view[position], 1
    else:
        width = 2 if kind == _COPY_2 else 4
        length, offset = 1 + high, int.from_bytes(view[position : position + width], "little")
    if not 0 < offset <= len(output) or position + width > len(view):
        raise SnappyError(f"a copy before byte {position} begins outside of what it copies from")
    # A copy may reach into what it is writing: the last `offset` bytes are then repeated.
    source = bytes(output[len(output) - offset :])
    output += (source * (length // offset + 1))[:length]
    return position + width
