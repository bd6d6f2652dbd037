"""Reads TFRecord files (tensorflow/core/lib/io/record_reader.cc): length, its checksum, bytes, their checksum."""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from deployctl.modelserver.interface import Code, StatusError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_POLYNOMIAL = 0x82F63B78
_MASK_DELTA = 0xA282EAD8
_UINT32 = 0xFFFFFFFF
_HEADER_BYTES, _FOOTER_BYTES = 12, 4
# From this size on, many pieces at a time by NumPy are quicker than byte after byte.
_WORTH_VECTORS = 4096
_PIECE = 512


def read_records(file: BinaryIO) -> Iterator[bytes]:
    """Yields each record.

    Raises:
        StatusError: DATA_LOSS when a checksum does not fit or the file is cut short.
    """
    offset = 0
    while header := file.read(_HEADER_BYTES):
        if len(header) < _HEADER_BYTES:
            raise _data_loss("truncated", offset)
        length, checksum = struct.unpack("<QI", header)
        if masked_crc32c(header[:8]) != checksum:
            raise _data_loss("corrupted", offset)
        body = file.read(length + _FOOTER_BYTES)
        if len(body) < length + _FOOTER_BYTES:
            raise _data_loss("truncated", offset)
        data = body[:length]
        if struct.pack("<I", masked_crc32c(data)) != body[length:]:
            raise _data_loss("corrupted", offset)
        yield data
        offset += _HEADER_BYTES + length + _FOOTER_BYTES


def masked_crc32c(data: bytes) -> int:
    """Returns the CRC-32C of `data` as TFRecord stores it."""
    crc = _crc32c(data)
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & _UINT32


def _data_loss(what: str, offset: int) -> StatusError:
    return StatusError(Code.DATA_LOSS, f"{what} record at {offset}")


def _crc32c(data: bytes) -> int:
    state, rest = _UINT32, data
    if len(data) >= _WORTH_VECTORS:
        pieces = len(data) // _PIECE
        state = _pieces_state(np.frombuffer(data, np.uint8, pieces * _PIECE).reshape(pieces, _PIECE))
        rest = data[pieces * _PIECE :]
    table = _table().tolist()
    for byte in rest:
        state = table[(state ^ byte) & 0xFF] ^ state >> 8
    return int(state) ^ _UINT32


def _pieces_state(pieces: NDArray[np.uint8]) -> int:
    """The state after all pieces: each alone, side by side, then joined, since the state is linear in the bytes."""
    table = _table()
    states = np.zeros(len(pieces), np.uint32)
    states[0] = _UINT32
    for column in pieces.T:
        states = table[(states ^ column) & 0xFF] ^ (states >> np.uint32(8))
    first, second, third, fourth = _shift_tables()
    joined = 0
    for state in states.tolist():
        joined = (
            state
            ^ first[joined & 0xFF]
            ^ second[joined >> 8 & 0xFF]
            ^ third[joined >> 16 & 0xFF]
            ^ fourth[joined >> 24]
        )
    return joined


@functools.cache
def _table() -> NDArray[np.uint32]:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> np.uint32(1)) ^ np.where(table & np.uint32(1), np.uint32(_POLYNOMIAL), np.uint32(0))
    return table


@functools.cache
def _shift_tables() -> tuple[list[int], ...]:
    """For each byte of a state, what it becomes after a piece of zero bytes."""
    table = _table()
    tables = []
    for byte in range(4):
        states = np.arange(256, dtype=np.uint32) << np.uint32(8 * byte)
        for _ in range(_PIECE):
            states = table[states & 0xFF] ^ (states >> np.uint32(8))
        tables.append(states.tolist())
    return tuple(tables)
