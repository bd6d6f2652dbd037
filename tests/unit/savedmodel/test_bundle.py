from __future__ import annotations

from pathlib import Path

import pytest

from deployctl.domain.saved_model import TensorSpec
from deployctl.errors import VariablesMissingError, VariablesTruncatedError
from deployctl.protos.saved_model_pb2 import BundleEntryProto, TensorSliceProto
from deployctl.protos.tensor_pb2 import DataType, TensorShapeProto
from deployctl.savedmodel.bundle import read_bundle
from tests.support.models import UPSTREAM
from tests.support.tables import bundle_index

SHAPE = TensorShapeProto(dim=[TensorShapeProto.Dim(size=2), TensorShapeProto.Dim(size=3)])


def test_lists_the_tensors_of_an_upstream_checkpoint() -> None:
    bundle = read_bundle(UPSTREAM / "saved_model_half_plus_three/00000123/variables/variables")
    assert {key: entry.spec for key, entry in bundle.tensors.items()} == {
        "a": TensorSpec("float32", (), "a"),
        "b": TensorSpec("float32", (), "b"),
        "c": TensorSpec("float32", (), "c"),
    }
    assert bundle.total_bytes == 12
    assert bundle.shard_sizes == {0: 12}
    assert not bundle.big_endian
    bundle.check_shards()


def test_reads_the_compressed_index_of_an_upstream_checkpoint() -> None:
    bundle = read_bundle(UPSTREAM / "saved_model_half_plus_two_tf2_cpu/00000123/variables/variables")
    assert set(bundle.tensors) == {
        "_CHECKPOINTABLE_OBJECT_GRAPH",
        *(f"{name}/.ATTRIBUTES/VARIABLE_VALUE" for name in "abc"),
    }
    bundle.check_shards()


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """A checkpoint of three shards, of which the index uses the first and the last."""
    tensors = {
        "kernel": BundleEntryProto(dtype=DataType.DT_FLOAT, shape=SHAPE, shard_id=0, offset=8, size=24),
        "bias": BundleEntryProto(dtype=DataType.DT_DOUBLE, shard_id=2, offset=0, size=8),
    }
    (tmp_path / "variables.index").write_bytes(bundle_index(tensors, shards=3))
    (tmp_path / "variables.data-00000-of-00003").write_bytes(bytes(32))
    (tmp_path / "variables.data-00002-of-00003").write_bytes(bytes(9))
    return tmp_path / "variables"


def test_accepts_shards_that_hold_at_least_what_the_index_says(prefix: Path) -> None:
    bundle = read_bundle(prefix)
    assert bundle.tensors["kernel"].spec == TensorSpec("float32", (2, 3), "kernel")
    bundle.check_shards()


def test_names_the_shard_that_is_absent(prefix: Path) -> None:
    prefix.with_name("variables.data-00002-of-00003").unlink()
    with pytest.raises(VariablesMissingError, match="data-00002-of-00003 is absent"):
        read_bundle(prefix).check_shards()


def test_names_the_shard_that_is_too_short(prefix: Path) -> None:
    prefix.with_name("variables.data-00000-of-00003").write_bytes(bytes(31))
    with pytest.raises(VariablesTruncatedError, match="has 31 bytes, and its index says 32"):
        read_bundle(prefix).check_shards()


def test_a_partitioned_tensor_lives_where_its_slices_are(tmp_path: Path) -> None:
    extent = TensorSliceProto.Extent(start=0, length=1)
    tensors = {
        "table": BundleEntryProto(dtype=DataType.DT_FLOAT, shape=SHAPE, slices=[TensorSliceProto(extent=[extent])]),
        "\0slice": BundleEntryProto(dtype=DataType.DT_FLOAT, shape=SHAPE, shard_id=1, offset=0, size=24),
    }
    (tmp_path / "c.index").write_bytes(bundle_index(tensors, shards=2))
    bundle = read_bundle(tmp_path / "c")
    assert list(bundle.tensors) == ["table"]
    assert bundle.shard_sizes == {1: 24}


@pytest.mark.parametrize(
    "tensors",
    [
        {"a": BundleEntryProto(offset=-1, size=4)},
        {"a": BundleEntryProto(size=-4)},
        {"a": BundleEntryProto(shard_id=-1)},
    ],
)
def test_refuses_negative_places(tmp_path: Path, tensors: dict[str, BundleEntryProto]) -> None:
    (tmp_path / "c.index").write_bytes(bundle_index(tensors))
    with pytest.raises(VariablesTruncatedError, match="negative"):
        read_bundle(tmp_path / "c")


def test_an_index_that_is_a_directory_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "c.index").mkdir()
    with pytest.raises(VariablesTruncatedError, match="not a regular file"):
        read_bundle(tmp_path / "c")


def test_an_absent_index_is_missing_and_the_hint_is_a_command(tmp_path: Path) -> None:
    with pytest.raises(VariablesMissingError, match=r"c\.index is absent") as caught:
        read_bundle(tmp_path / "c")
    assert caught.value.hint == f"ls -l {tmp_path}"
