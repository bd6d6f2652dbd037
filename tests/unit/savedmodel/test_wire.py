from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployctl.protos.saved_model_pb2 import NodeDef, VersionDef
from deployctl.savedmodel import wire


def test_walks_the_fields_that_protobuf_wrote() -> None:
    data = memoryview(VersionDef(producer=300, min_consumer=-1, bad_consumers=[7]).SerializeToString())
    found = list(wire.fields(data, 0, len(data)))
    assert [field.number for field in found] == [1, 2, 3]
    assert found[0].value == 300
    assert found[1].value == (1 << 64) - 1
    start, stop = found[2].content()
    assert bytes(data[start:stop]) == b"\x07"


@given(st.text(), st.text(), st.lists(st.text(), max_size=3))
def test_finds_the_same_strings_as_protobuf(name: str, op: str, inputs: list[str]) -> None:
    data = memoryview(NodeDef(name=name, op=op, input=inputs).SerializeToString())
    start, stop = wire.last_bytes(data, 0, len(data), 2)
    assert bytes(data[start:stop]).decode() == op


def test_the_last_of_two_values_wins_as_in_protobuf() -> None:
    data = NodeDef(op="Harmless").SerializeToString() + NodeDef(op="WriteFile").SerializeToString()
    assert NodeDef.FromString(data).op == "WriteFile"
    start, stop = wire.last_bytes(memoryview(data), 0, len(data), 2)
    assert data[start:stop] == b"WriteFile"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x12\x05abc", "goes 2 bytes past its message"),
        (b"\x08" + b"\xff" * 10, "does not end"),
        (b"\x08\xff", "does not end"),
        (b"\x0b\x0c", "wire type 3"),
        (b"\x00\x00", "no field tag"),
        (b"\x0d\x01", "goes 3 bytes past"),
        (b"\x12" + b"\xff" * 9 + b"\x01", "bytes past its message"),
    ],
)
def test_refuses_what_is_not_wire_format(data: bytes, reason: str) -> None:
    with pytest.raises(wire.WireError, match=reason):
        list(wire.fields(memoryview(data), 0, len(data)))
    with pytest.raises(wire.WireError):
        wire.last_bytes(memoryview(data), 0, len(data), 2)


def test_refuses_a_number_where_a_message_belongs() -> None:
    data = memoryview(b"\x08\x01")
    with pytest.raises(wire.WireError, match="wire type 0"):
        list(wire.messages(data, 0, 2, 1))
    with pytest.raises(wire.WireError, match="wire type 0"):
        wire.last_bytes(data, 0, 2, 1)


@given(st.binary(max_size=60), st.integers(0, 60))
def test_any_bytes_are_walked_or_refused(data: bytes, end: int) -> None:
    view, end = memoryview(data), min(end, len(data))
    walked = refused = False
    try:
        walked = all(field.stop <= end for field in wire.fields(view, 0, end))
    except wire.WireError:
        refused = True
    assert walked or refused
    try:
        start, stop = wire.last_bytes(view, 0, end, 2)
        assert 0 <= start <= stop <= end
    except wire.WireError:
        assert refused or any(field.number == 2 and field.wire_type != 2 for field in wire.fields(view, 0, end))
