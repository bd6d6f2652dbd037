"""CRC-32C (Castagnoli) as LevelDB and TensorFlow store it.

Written in Python: an index is small, and no package of the standard library has this polynomial.
"""

from __future__ import annotations

import functools

_POLYNOMIAL = 0x82F63B78
_MASK_DELTA = 0xA282EAD8
_UINT32 = 0xFFFFFFFF


@functools.cache
def _table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (_POLYNOMIAL if byte & 1 else 0)
        table.append(byte)
    return tuple(table)


def crc32c(data: bytes, crc: int = 0) -> int:
    """Returns the checksum of `data`, going on from `crc`; about 10 MB a second."""
    table, crc = _table(), crc ^ _UINT32
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ _UINT32


def masked(crc: int) -> int:
    """Returns `crc` the way it is stored, so that a checksum of bytes that hold checksums stays good."""
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & _UINT32
