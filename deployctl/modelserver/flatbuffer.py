"""The little of FlatBuffers and FlexBuffers that finding a TFLite file's signatures takes.

https://flatbuffers.dev/internals/ and https://flatbuffers.dev/flexbuffers/
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_UNSIGNED = {1: "<B", 2: "<H", 4: "<I", 8: "<Q"}
_FLEX_MAP, _FLEX_TEXTS = 9, (5, 25)
# Every vector of a real file is far shorter; a hostile length must not keep the reader busy.
_MOST_ELEMENTS = 1_000_000


@dataclass(frozen=True, slots=True)
class Table:
    """One table of a FlatBuffer. Fields are counted in the order of the schema; struct.error when cut short."""

    data: bytes
    position: int

    @classmethod
    def root(cls, data: bytes) -> Table:
        """Returns the table at which the file begins."""
        return cls(data, _unsigned(data, 0, 4))

    def number(self, index: int) -> int:
        """The uint field, 0 when it is left out."""
        at = self._field(index)
        return _unsigned(self.data, at, 4) if at else 0

    def text(self, index: int) -> bytes:
        """The string, or the vector of bytes."""
        start, length = self._vector(index)
        if start + length > len(self.data):
            raise ValueError(f"the bytes from {start} go past the end")
        return self.data[start : start + length]

    def numbers(self, index: int) -> tuple[int, ...]:
        """The vector of ints."""
        start, length = self._vector(index)
        return struct.unpack_from(f"<{length}i", self.data, start)

    def tables(self, index: int) -> list[Table]:
        """The vector of tables."""
        start, length = self._vector(index)
        places = range(start, start + 4 * length, 4)
        return [Table(self.data, place + _unsigned(self.data, place, 4)) for place in places]

    def _field(self, index: int) -> int:
        (back,) = struct.unpack_from("<i", self.data, self.position)
        vtable, slot = self.position - back, 4 + 2 * index
        if vtable < 0 or slot >= _unsigned(self.data, vtable, 2):
            return 0
        offset = _unsigned(self.data, vtable + slot, 2)
        return self.position + offset if offset else 0

    def _vector(self, index: int) -> tuple[int, int]:
        at = self._field(index)
        if not at:
            return 0, 0
        start = at + _unsigned(self.data, at, 4)
        length = _unsigned(self.data, start, 4)
        if length > max(_MOST_ELEMENTS, len(self.data)):
            raise ValueError(f"the vector at byte {start} has {length} elements")
        return start + 4, length


def flex_texts(data: bytes) -> dict[str, bytes]:
    """Returns the FlexBuffer's map of names to strings.

    Raises:
        ValueError: it is not such a map.
        struct.error, IndexError: it is cut short.
    """
    width = data[-1]
    place, kind = len(data) - 2 - width, data[-2]
    if width not in _UNSIGNED or kind >> 2 != _FLEX_MAP:
        raise ValueError("the FlexBuffer is not a map")
    start, width = _target(data, place, width), 1 << (kind & 3)
    size = _unsigned(data, start - width, width)
    keys, key_width = _target(data, start - 3 * width, width), _unsigned(data, start - 2 * width, width)
    texts = {}
    for index in range(size):
        key = _target(data, keys + index * key_width, key_width)
        name = data[key : data.index(0, key)].decode("utf-8", "replace")
        texts[name] = _flex_text(data, start + index * width, width, data[start + size * width + index])
    return texts


def _flex_text(data: bytes, place: int, width: int, kind: int) -> bytes:
    if kind >> 2 not in _FLEX_TEXTS:
        raise ValueError(f"the value at byte {place} is not a string")
    start, length_width = _target(data, place, width), 1 << (kind & 3)
    return data[start : start + _unsigned(data, start - length_width, length_width)]


def _target(data: bytes, place: int, width: int) -> int:
    return place - _unsigned(data, place, width)


def _unsigned(data: bytes, place: int, width: int) -> int:
    layout = _UNSIGNED.get(width)
    if place < 0 or layout is None:
        raise ValueError(f"an offset leads to byte {place}")
    value: int = struct.unpack_from(layout, data, place)[0]
    return value
