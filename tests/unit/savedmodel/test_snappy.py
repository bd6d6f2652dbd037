from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployctl.savedmodel.snappy import SnappyError, decompress


@pytest.mark.parametrize(
    ("compressed", "expected"),
    [
        (b"\x00", b""),
        (b"\x03\x08abc", b"abc"),
        # A copy that overlaps what it writes: "ab", then 8 bytes from 2 back.
        (b"\x0a\x04ab\x11\x02", b"ab" * 5),
        (b"\x0a\x04ab\x1e\x02\x00", b"ab" * 5),
        (b"\x0a\x04ab\x1f\x02\x00\x00\x00", b"ab" * 5),
        # A literal whose length is in one more byte.
        (b"\x46\xf0\x45" + b"x" * 70, b"x" * 70),
    ],
)
def test_decompresses_each_kind_of_element(compressed: bytes, expected: bytes) -> None:
    assert decompress(compressed, limit=100) == expected


@pytest.mark.parametrize(
    ("compressed", "reason"),
    [
        (b"", "ends in the middle"),
        (b"\x05\x08abc", "3 bytes instead of 5"),
        (b"\x03\x0cab", "ends in the middle"),
        (b"\x08\x04ab\x11\x03", "outside of what it copies from"),
        (b"\x08\x04ab\x11\x00", "outside of what it copies from"),
        (b"\xff\xff\xff\xff\x0f", "the limit is 100"),
    ],
)
def test_refuses_damage(compressed: bytes, reason: str) -> None:
    with pytest.raises(SnappyError, match=reason):
        decompress(compressed, limit=100)


@given(st.binary(max_size=200))
def test_any_bytes_expand_within_the_limit_or_are_refused(data: bytes) -> None:
    with contextlib.suppress(SnappyError):
        assert len(decompress(data, limit=1000)) <= 1000
