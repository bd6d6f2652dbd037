from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployctl.protos.saved_model_pb2 import NodeDef, VersionDef
from deployctl.savedmodel import wire


def test_walks_the_fields_that_protobuf_wrote() -> None:
    data = memoryview(VersionDef(producer=300, min_consumer=-1, bad_consumers=[7]).SerializeToString())
    found = list(wire.Walker(data).fields(0, len(data)))
    assert [field.number for field in found] == [1, 2, 3]
    assert found[0].value == 300
    assert found[1].value == (1 << 64) - 1
    start, stop = found[2].content()
    assert bytes(data[start:stop]) == b"\x07"


@given(st.text(), st.text(), st.lists(st.text(), max_size=3))
def test_finds_the_same_strings_as_protobuf(name: str, op: str, inputs: list[str]) -> None:
    data = memoryview(NodeDef(name=name, op=op, input=inputs).SerializeToString())
    assert wire.Walker(data).last_bytes(0, len(data), 2).decode() == op


def test_the_last_of_two_values_wins_as_in_protobuf() -> None:
    data = NodeDef(op="Harmless").SerializeToString() + NodeDef(op="WriteFile").SerializeToString()
    assert NodeDef.FromString(data).op == "WriteFile"
    assert wire.Walker(memoryview(data)).last_bytes(0, len(data), 2) == b"WriteFile"


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
        list(wire.Walker(memoryview(data)).fields(0, len(data)))
    with pytest.raises(wire.WireError):
        wire.Walker(memoryview(data)).last_bytes(0, len(data), 2)


def test_refuses_a_number_where_a_message_belongs() -> None:
    walker = wire.Walker(memoryview(b"\x08\x01"))
    with pytest.raises(wire.WireError, match="wire type 0"):
        list(walker.messages(0, 2, 1))
    with pytest.raises(wire.WireError, match="wire type 0"):
        walker.last_bytes(0, 2, 1)


def test_stops_when_its_budget_is_spent() -> None:
    data = memoryview(b"\x12\x00" * 10)
    assert len(list(wire.Walker(data, budget=10).fields(0, 20))) == 10
    assert wire.Walker(data, budget=10).last_bytes(0, 20, 2) == b""
    with pytest.raises(wire.WireError, match="more fields than any real model"):
        list(wire.Walker(data, budget=9).fields(0, 20))
    with pytest.raises(wire.WireError, match="more fields than any real model"):
        wire.Walker(data, budget=9).last_bytes(0, 20, 2)


@given(st.binary(max_size=60), st.integers(0, 60))
def test_any_bytes_are_walked_or_refused(data: bytes, end: int) -> None:
    walker, end = wire.Walker(memoryview(data)), min(end, len(data))
    try:
        found = list(walker.fields(0, end))
    except wire.WireError:
        with pytest.raises(wire.WireError):
            walker.last_bytes(0, end, 2)
        return
    assert all(field.stop <= end for field in found)
    values = [field for field in found if field.number == 2]
    if any(field.wire_type != wire.BYTES for field in values):
        with pytest.raises(wire.WireError):
            walker.last_bytes(0, end, 2)
    else:
        assert walker.last_bytes(0, end, 2) == (data[values[-1].value : values[-1].stop] if values else b"")
