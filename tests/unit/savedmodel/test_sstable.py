from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployctl.savedmodel.sstable import TableError, entries
from tests.support.tables import block, entry, table, trailed, varint


def test_yields_the_entries_of_every_block_with_their_whole_keys() -> None:
    data = table(
        block(entry(0, b"alpha", b"1"), entry(2, b"ready", b"2")),
        block(entry(0, b"beta", b""), entry(4, b"max", b"4")),
    )
    assert list(entries(data)) == [(b"alpha", b"1"), (b"already", b"2"), (b"beta", b""), (b"betamax", b"4")]


def test_reads_blocks_compressed_with_snappy() -> None:
    plain = block(entry(0, b"key", b"value"))
    compressed = varint(len(plain)) + bytes([(len(plain) - 1) << 2]) + plain
    assert list(entries(table(compressed, compression=1))) == [(b"key", b"value")]


def test_refuses_a_truncated_table_at_every_length() -> None:
    data = table(block(entry(0, b"key", b"value")))
    for length in range(len(data)):
        with pytest.raises(TableError):
            list(entries(data[:length]))


def test_refuses_every_flipped_bit_of_a_block() -> None:
    content = block(entry(0, b"key", b"value"))
    data = table(content)
    for bit in range(8 * len(trailed(content))):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(TableError):
            list(entries(bytes(flipped)))


@pytest.mark.parametrize(
    ("blocks", "compression", "reason"),
    [
        ((block(entry(0, b"b", b""), entry(0, b"a", b"")),), 0, "not in order"),
        ((block(entry(0, b"a", b""), entry(1, b"", b"")),), 0, "not in order"),
        ((block(entry(0, b"a", b""), entry(5, b"b", b"")),), 0, "past its block"),
        ((b"\x00\x63\x00abc" + b"\0\0\0\0\x01\0\0\0",), 0, "past its block"),
        ((b"\xff\xff\xff\x7f",), 0, "restart points"),
        ((b"\x01",), 0, "has 1 bytes"),
        ((block(entry(0, b"a", b"")),), 7, "unknown way 7"),
    ],
)
def test_refuses_blocks_that_no_writer_makes(blocks: tuple[bytes, ...], compression: int, reason: str) -> None:
    with pytest.raises(TableError, match=reason):
        list(entries(table(*blocks, compression=compression)))


def test_refuses_keys_that_grow_out_of_proportion() -> None:
    grow = block(*(entry(length, b"\xff", b"") for length in range(30_000)))
    with pytest.raises(TableError, match="not in order"):
        list(entries(table(grow)))


def test_refuses_an_index_that_reads_the_same_block_again_and_again() -> None:
    content = block(entry(0, b"a", b"x" * 100))
    twice = block(*(entry(0, b"k%d" % number, varint(0) + varint(len(content))) for number in range(2)))
    data = trailed(content)
    footer = varint(0) + varint(0) + varint(len(data)) + varint(len(twice))
    data += trailed(twice) + footer.ljust(40, b"\0") + (0xDB4775248B80FB57).to_bytes(8, "little")
    with pytest.raises(TableError, match="overlaps"):
        list(entries(data))


@given(st.binary(max_size=120), st.binary(min_size=40, max_size=40))
def test_any_bytes_before_a_good_mark_are_read_or_refused(content: bytes, footer: bytes) -> None:
    data = content + footer + (0xDB4775248B80FB57).to_bytes(8, "little")
    with contextlib.suppress(TableError):
        assert all(isinstance(key, bytes) for key, _ in entries(data))
