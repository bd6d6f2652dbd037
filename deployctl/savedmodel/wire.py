"""A cursor over protocol-buffer wire format that skips what is not asked for.

A graph may hold hundreds of megabytes of constants. Parsing them with protobuf copies them; walking the
format (https://protobuf.dev/programming-guides/encoding/) steps over them, and pages of a mapped file that are
stepped over are never read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
# A varint holds at most 64 bits, 7 to a byte.
_LONGEST_VARINT = 10
MAX_FIELDS = 10_000_000
_LARGEST_TAG = (1 << 32) - 1


class WireError(ValueError):
    """The bytes are not wire format, or a field has another type than the message says."""


class Field(NamedTuple):
    """One field of a message.

    Attributes:
        number: the field's number in the .proto file.
        wire_type: VARINT, FIXED64, BYTES or FIXED32.
        start: where its tag begins.
        value: the number itself for VARINT, else where the value begins.
        stop: the end of the field, not included.
    """

    number: int
    wire_type: int
    start: int
    value: int
    stop: int

    def content(self) -> tuple[int, int]:
        """Where the bytes of a string, bytes or message field begin and end.

        Raises:
            WireError: the field is a number.
        """
        if self.wire_type != BYTES:
            raise WireError(f"field {self.number} at byte {self.start} has wire type {self.wire_type}, not {BYTES}")
        return self.value, self.stop


def varint(data: memoryview, position: int, end: int) -> tuple[int, int]:
    """Returns the unsigned varint at `position` and where it ends.

    Raises:
        WireError: it does not end before `end`, or is longer than ten bytes.
    """
    result = shift = 0
    for at in range(position, end if end - position < _LONGEST_VARINT else position + _LONGEST_VARINT):
        byte = data[at]
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, at + 1
        shift += 7
    raise WireError(f"the number at byte {position} does not end")


class Walker:
    """Walks the messages in `data`, and no more than `budget` fields of them all.

    A field takes two bytes at least. Without a limit, a file of 500 MB that is nothing but fields would keep its
    reader busy for minutes; the largest graphs in use have some million nodes, of less than ten fields each.
    """

    def __init__(self, data: memoryview, budget: int = MAX_FIELDS) -> None:
        self.data = data
        self._budget = budget

    def fields(self, start: int, end: int) -> Iterator[Field]:
        """Yields the fields of the message in data[start:end], in file order.

        Raises:
            WireError: the bytes are not wire format, a field goes past `end`, there is a group (a feature of
                proto2 that no file of TensorFlow uses), or the budget is spent.
        """
        data, position = self.data, start
        while position < end:
            begin = position
            tag, position = varint(data, position, end)
            number, wire_type = tag >> 3, tag & 7
            if not 8 <= tag <= _LARGEST_TAG:
                raise WireError(f"there is no field tag at byte {begin}")
            if wire_type == BYTES:
                length, value = varint(data, position, end)
                position = value + length
            elif wire_type == VARINT:
                value, position = varint(data, position, end)
            elif wire_type in (FIXED32, FIXED64):
                value, position = position, position + (8 if wire_type == FIXED64 else 4)
            else:
                raise WireError(f"field {number} at byte {begin} has wire type {wire_type}")
            if position > end:
                raise WireError(f"field {number} at byte {begin} goes {position - end} bytes past its message")
            self._spend(1)
            yield Field(number, wire_type, begin, value, position)

    def messages(self, start: int, end: int, number: int) -> Iterator[tuple[int, int]]:
        """Yields where each value of the message field `number` begins and ends.

        It does the work of `fields` without its objects, since a graph has many nodes.

        Raises:
            WireError: as `fields`, or a value of the field is a number.
        """
        data, wanted, position = self.data, number << 3 | BYTES, start
        safe = end - _LONGEST_VARINT
        while position < end:
            tag = data[position]
            if not (8 <= tag < 0x80 and tag & 7 == BYTES and position < safe):
                field = next(self.fields(position, end))
                if field.number == number:
                    yield field.content()
                position = field.stop
                continue
            length, value = data[position + 1], position + 2
            if length >= 0x80:
                length, value = varint(data, position + 1, end)
            position = value + length
            if position > end:
                raise WireError(f"field {tag >> 3} before byte {value} goes {position - end} bytes past its message")
            self._spend(1)
            if tag == wanted:
                yield value, position

    def last_bytes(self, start: int, end: int, number: int) -> bytes:
        """Returns the value of the string field `number`; b"" if unset.

        The last one wins, as in protobuf: taking the first would let a file show one op to a checker and another
        to TensorFlow. It does the work of `fields` without its objects, since it runs once for every node.

        Raises:
            WireError: as `fields`, or the field is a number.
        """
        data, wanted = self.data, number << 3 | BYTES
        found = stop = position = start
        try:
            for steps in range(self._budget + 1):
                if position >= end:
                    self._spend(steps)
                    break
                tag = data[position]
                position += 1
                if tag >= 0x80:
                    tag, position = varint(data, position - 1, end)
                if tag & 7 == BYTES and 8 <= tag <= _LARGEST_TAG:
                    length = data[position]
                    position += 1
                    if length >= 0x80:
                        length, position = varint(data, position - 1, end)
                    if tag == wanted:
                        found, stop = position, position + length
                    position += length
                else:
                    position = _skip_number(data, position, end, tag, number)
            else:
                self._spend(self._budget + 1)
        except IndexError:
            raise WireError(f"the message at byte {start} goes past the end of the file") from None
        if position != end:
            raise WireError(f"a field of the message at byte {start} goes past it")
        return bytes(data[found:stop])

    def _spend(self, fields: int) -> None:
        self._budget -= fields
        if self._budget < 0:
            raise WireError("there are more fields than any real model has")


def _skip_number(data: memoryview, position: int, end: int, tag: int, wanted: int) -> int:
    """Returns the end of the number that follows `tag`."""
    if not 8 <= tag <= _LARGEST_TAG or tag >> 3 == wanted:
        raise WireError(f"field {tag >> 3} before byte {position} has wire type {tag & 7}")
    match tag & 7:
        case 0:
            return varint(data, position, end)[1]
        case 1:
            return position + 8
        case 5:
            return position + 4
    raise WireError(f"field {tag >> 3} before byte {position} has wire type {tag & 7}")
