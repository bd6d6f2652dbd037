"""The signatures in a TFLite file are found, and a damaged file ends in an error that is caught."""

from __future__ import annotations

import contextlib
import struct
from importlib.util import find_spec

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployctl.modelserver.flatbuffer import Table, flex_texts
from tests.support.models import skip_or_fail

if find_spec("flatbuffers") is None:
    skip_or_fail("tensorflow", "TensorFlow brings the writer of flatbuffers")
flexbuffers = pytest.importorskip("flatbuffers.flexbuffers")
TEXTS = st.dictionaries(st.text("abcdefgh_", min_size=1, max_size=40), st.text(max_size=400), max_size=20)


def written(texts: dict[str, str]) -> bytes:
    builder = flexbuffers.Builder()
    with builder.Map():
        for key, text in texts.items():
            builder.Key(key)
            builder.String(text)
    return bytes(builder.Finish())


@given(TEXTS)
def test_a_map_of_strings_is_read_as_it_was_written(texts: dict[str, str]) -> None:
    assert flex_texts(written(texts)) == {key: text.encode() for key, text in texts.items()}


@given(TEXTS, st.data())
def test_a_damaged_map_is_a_map_or_one_of_three_errors(texts: dict[str, str], data: st.DataObject) -> None:
    damaged = bytearray(written(texts))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))

    with contextlib.suppress(ValueError, IndexError, struct.error):
        flex_texts(bytes(damaged))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_table_or_one_of_two_errors(content: bytes) -> None:
    try:
        for table in Table.root(content).tables(6):
            table.text(0)
            table.number(1)
            table.numbers(2)
    except (ValueError, struct.error):
        pass
