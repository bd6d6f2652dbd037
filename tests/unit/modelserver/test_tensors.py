"""Arrays keep their elements on the way to TensorFlow, to the wire, and back."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from deployctl.modelserver import wire
from deployctl.modelserver.dtypes import BY_NAME
from deployctl.modelserver.interface import Code, StatusError
from deployctl.modelserver.tensor_proto import TensorProtoError, decode, encode
from deployctl.modelserver.tfrecord import masked_crc32c, read_records
from deployctl.protos.tensor_pb2 import TensorProto
from tests.support.upstream_apis import official_apis

NUMERIC = [name for name, dtype in BY_NAME.items() if name != "string"]
_SHAPES = npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)


@st.composite
def arrays(draw: st.DrawFn) -> Any:
    name = draw(st.sampled_from([*NUMERIC, "string"]))
    shape = draw(_SHAPES)
    count = int(np.prod(shape))
    if name == "string":
        array = np.empty(count, dtype=object)
        array[:] = draw(st.lists(st.binary(max_size=60), min_size=count, max_size=count))
        return array.reshape(shape)
    dtype = BY_NAME[name].numpy
    if name == "bool":
        return np.array(draw(st.lists(st.booleans(), min_size=count, max_size=count)), dtype=bool).reshape(shape)
    raw = draw(st.binary(min_size=count * dtype.itemsize, max_size=count * dtype.itemsize))
    return np.frombuffer(raw, dtype=dtype).reshape(shape)


def same(left: Any, right: Any) -> None:
    assert left.dtype == right.dtype
    assert left.shape == right.shape
    assert left.tolist() == right.tolist() if left.dtype == object else bits(left) == bits(right)


def bits(array: Any) -> bytes:
    """The bytes of `array`, each NaN as the same one: Python's float, which short lists pass through, quiets it."""
    copy = np.array(array)
    if copy.dtype.kind in "fc":
        parts = copy.reshape(-1).view(copy.real.dtype)
        parts[np.isnan(parts)] = np.nan
    return copy.tobytes()


@given(arrays(), st.booleans())
def test_an_array_comes_back_from_the_wire(array: Any, as_content: bool) -> None:
    same(decode(TensorProto.FromString(encode(array, as_content=as_content))), array)


@given(arrays())
def test_the_official_message_reads_what_is_written_and_writes_the_same(array: Any) -> None:
    encoded = encode(array)

    assert official_apis().tensor_pb2.TensorProto.FromString(encoded).SerializeToString() == encoded


@pytest.mark.tensorflow
@settings(deadline=None)
@given(arrays())
def test_an_array_comes_back_from_tensorflow(array: Any) -> None:
    from deployctl.modelserver.capi import c_api
    from deployctl.modelserver.tensors import TensorConverter

    converter = TensorConverter(c_api())

    same(converter.to_numpy(converter.to_tensorflow(array)), array)


@pytest.mark.tensorflow
@pytest.mark.parametrize("offset", [0, 1])
def test_large_arrays_come_back_whether_aligned_or_not(offset: int) -> None:
    from deployctl.modelserver.capi import c_api
    from deployctl.modelserver.tensors import TensorConverter

    converter = TensorConverter(c_api())
    room = np.arange(100_000, dtype=np.float32)
    start = (-room.ctypes.data % 64) // 4 + offset
    array = room[start : start + 50_000]

    handle = converter.to_tensorflow(array)
    shared = dict(converter._shared)
    back = converter.to_numpy(handle)

    assert bool(shared) == (offset == 0)
    same(back, array)
    assert not back.flags.writeable
    del back
    assert converter._shared == {}


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=600), st.integers(0, 900))
def test_a_list_is_cut_or_repeats_its_last_value(values: list[float], count: int) -> None:
    proto = TensorProto(dtype="DT_FLOAT", float_val=values)
    proto.tensor_shape.dim.add(size=count)

    assert decode(proto).tolist() == (values + [values[-1]] * count)[:count]


def test_an_empty_list_means_zeros() -> None:
    proto = TensorProto(dtype="DT_INT64")
    proto.tensor_shape.dim.add(size=2)

    assert decode(proto).tolist() == [0, 0]


def test_strings_may_be_encoded_as_content() -> None:
    proto = TensorProto(dtype="DT_STRING", tensor_content=b"\x02\x00\x03abxyz")
    proto.tensor_shape.dim.add(size=3)

    assert decode(proto).tolist() == [b"ab", b"", b"xyz"]


@pytest.mark.parametrize("dtype", [0, 20, 21, 101, 999])
def test_types_that_no_message_carries_are_refused(dtype: int) -> None:
    with pytest.raises(TensorProtoError):
        decode(TensorProto(dtype=dtype))  # type: ignore[arg-type]


@given(st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_packed_varints_are_those_of_protobuf(values: list[int]) -> None:
    packed = wire.packed_varints(np.array(values, dtype=np.int64))

    assert list(TensorProto.FromString(wire.length_delimited(10, packed)).int64_val) == values


@given(st.binary(max_size=20_000))
@settings(max_examples=30)
def test_records_come_back(data: bytes) -> None:
    header = struct.pack("<Q", len(data))
    record = header + struct.pack("<I", masked_crc32c(header)) + data + struct.pack("<I", masked_crc32c(data))

    assert list(read_records(io.BytesIO(record * 2))) == [data, data]


def test_a_known_checksum() -> None:
    # CRC-32C of "123456789" is 0xE3069283; RFC 3720, B.4.
    crc = 0xE3069283
    assert masked_crc32c(b"123456789") == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@pytest.mark.parametrize(
    "damage", [lambda r: r[:-1], lambda r: r[:5], lambda r: r[:13] + b"!" + r[14:], lambda r: b"x" * 40]
)
def test_damaged_records_are_data_loss(damage: Any) -> None:
    data = b"some bytes"
    header = struct.pack("<Q", len(data))
    record = header + struct.pack("<I", masked_crc32c(header)) + data + struct.pack("<I", masked_crc32c(data))

    with pytest.raises(StatusError) as raised:
        list(read_records(io.BytesIO(damage(record))))

    assert raised.value.code is Code.DATA_LOSS
