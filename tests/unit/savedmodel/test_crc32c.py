from __future__ import annotations

import pytest

from deployctl.savedmodel.crc32c import crc32c, masked


# RFC 3720, appendix B.4.
@pytest.mark.parametrize(
    ("data", "checksum"),
    [
        (b"", 0),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(reversed(range(32))), 0x113FDB5C),
        (b"123456789", 0xE3069283),
    ],
)
def test_agrees_with_the_published_values(data: bytes, checksum: int) -> None:
    assert crc32c(data) == checksum


def test_goes_on_from_an_earlier_checksum() -> None:
    assert crc32c(b"456789", crc32c(b"123")) == crc32c(b"123456789")


def test_the_mask_is_the_one_of_leveldb() -> None:
    assert masked(0) == 0xA282EAD8
    assert masked(crc32c(b"foo")) != crc32c(b"foo")
