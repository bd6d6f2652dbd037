from __future__ import annotations

import os
from pathlib import Path

import pytest
from google.protobuf import text_format

from deployctl.domain.saved_model import Signature, TensorSpec, Variable
from deployctl.errors import (
    AssetMissingError,
    MalformedSavedModelError,
    NotASavedModelError,
    UnreadableExportError,
    UnsafeExportError,
    VariablesMissingError,
)
from deployctl.protos.saved_model_pb2 import AssetFileDef, BundleEntryProto, MetaGraphDef, SavedModel, VariableDef
from deployctl.protos.tensor_pb2 import DataType
from deployctl.savedmodel import graph, meta_graph, reader, text
from deployctl.savedmodel.reader import ProtobufSavedModelReader
from tests.support.models import UPSTREAM
from tests.support.tables import bundle_index

READER = ProtobufSavedModelReader()

TEXT = """
saved_model_schema_version: 1
meta_graphs {
  meta_info_def {
    tags: "serve" tags: "gpu" tensorflow_version: "1.15.0" tensorflow_git_version: "v1.15" stripped_default_attrs: true
    stripped_op_list { op { name: "Placeholder" } }
  }
  graph_def {
    node { name: "x" op: "Placeholder" }
    node { name: "y" op: "Identity" input: "x" }
    library { function { signature { name: "f" } node_def { name: "z" op: "Identity" } } }
    versions { producer: 134 }
  }
  signature_def {
    key: "b"
    value {
      inputs { key: "x" value { name: "x:0" dtype: DT_STRING tensor_shape { dim { size: -1 } } } }
      inputs { key: "k" value { name: "k:0" dtype: DT_INT32 tensor_shape { unknown_rank: true } } }
      outputs { key: "y" value { name: "y:0" dtype: DT_BOOL tensor_shape { dim { size: 2 } } } }
      defaults { key: "k" value { dtype: DT_INT32 int_val: 4 } }
      method_name: "tensorflow/serving/predict"
    }
  }
  signature_def { key: "a" value { method_name: "m" } }
}
"""


def model() -> SavedModel:
    return text_format.Parse(TEXT, SavedModel(), allow_unknown_field=True)


def write(path: Path, proto: SavedModel) -> Path:
    path.mkdir(exist_ok=True)
    (path / "saved_model.pb").write_bytes(proto.SerializeToString())
    return path


def restoring(path: Path, *keys: str, prefix: str = "save/Const") -> MetaGraphDef:
    """A MetaGraph in `path` whose saver restores `keys`, as TensorFlow 1 writes them."""
    proto = model()
    graph_proto = proto.meta_graphs[0]
    graph_proto.saver_def.restore_op_name = "save/restore_all"
    graph_proto.saver_def.filename_tensor_name = "save/Const:0"
    names = graph_proto.graph_def.node.add(name="save/names", op="Const")
    names.attr["value"].tensor.string_val.extend(key.encode() for key in keys)
    graph_proto.graph_def.node.add(name="save/RestoreV2", op="RestoreV2", input=[prefix, "save/names", "save/slices"])
    write(path, proto)
    return graph_proto


def test_reads_every_part_of_a_meta_graph(tmp_path: Path) -> None:
    read = READER.read(write(tmp_path, model()))
    assert (read.format, read.schema_version, read.checkpoint) == ("pb", 1, None)
    (found,) = read.meta_graphs
    assert found.tags == ("gpu", "serve")
    assert (found.tensorflow_version, found.tensorflow_git_version) == ("1.15.0", "v1.15")
    assert found.stripped_default_attrs
    assert found.graph_ops == {"Identity": 1, "Placeholder": 1}
    assert found.function_ops == {"Identity": 1}
    assert list(found.signatures) == ["a", "b"]
    assert found.signatures["b"] == Signature(
        "tensorflow/serving/predict",
        {"k": TensorSpec("int32", None, "k:0"), "x": TensorSpec("string", (None,), "x:0")},
        {"y": TensorSpec("bool", (2,), "y:0")},
        frozenset({"k"}),
    )
    assert not found.restores_variables


def test_reads_the_same_from_text(tmp_path: Path) -> None:
    binary = READER.read(write(tmp_path / "binary", model()))
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "saved_model.pbtxt").write_text(TEXT)
    read = READER.read(tmp_path / "text")
    assert read.format == "pbtxt"
    assert read.meta_graphs == binary.meta_graphs


def test_takes_the_binary_file_where_both_are_there(tmp_path: Path) -> None:
    write(tmp_path, model())
    (tmp_path / "saved_model.pbtxt").write_text("meta_graphs {}")
    assert READER.read(tmp_path).format == "pb"


def test_joins_repeated_parts_as_protobuf_does(tmp_path: Path) -> None:
    more = model()
    more.meta_graphs[0].ClearField("signature_def")
    more.meta_graphs[0].signature_def["c"].method_name = "another"
    del more.meta_graphs[0].meta_info_def.tags[:]
    joined = model().meta_graphs[0].SerializeToString() + more.meta_graphs[0].SerializeToString()
    (tmp_path / "saved_model.pb").write_bytes(
        SavedModel(meta_graphs=[MetaGraphDef.FromString(joined)]).SerializeToString()
    )
    expected = READER.read(tmp_path)
    field = b"\x12" + len(joined).to_bytes(2, "little")
    assert len(joined) > 255
    length = bytes([len(joined) & 0x7F | 0x80, len(joined) >> 7])
    (tmp_path / "saved_model.pb").write_bytes(field[:1] + length + joined)
    read = READER.read(tmp_path)
    assert read.meta_graphs == expected.meta_graphs
    assert read.meta_graphs[0].graph_ops == {"Identity": 2, "Placeholder": 2}
    assert list(read.meta_graphs[0].signatures) == ["a", "b", "c"]


def test_the_variables_of_tensorflow_2_come_from_the_object_graph(tmp_path: Path) -> None:
    proto = model()
    nodes = proto.meta_graphs[0].object_graph_def.nodes
    nodes.add().user_object.identifier = "_generic_user_object"
    variable = nodes.add().variable
    variable.name, variable.dtype = "kernel", DataType.DT_BFLOAT16
    variable.shape.dim.add(size=4)
    proto.meta_graphs[0].graph_def.node.add(name="not_this", op="VarHandleOp")
    assert READER.read(write(tmp_path, proto)).meta_graphs[0].variables == (Variable("kernel", "bfloat16", (4,)),)


def test_the_variables_of_tensorflow_1_are_those_of_its_collection(tmp_path: Path) -> None:
    proto = model()
    for name, op in (("weights", "VariableV2"), ("bias", "VarHandleOp"), ("calls", "Variable")):
        node = proto.meta_graphs[0].graph_def.node.add(name=name, op=op)
        node.attr["dtype"].type = DataType.DT_FLOAT
        node.attr["shape"].shape.dim.add(size=3)
    every = READER.read(write(tmp_path, proto)).meta_graphs[0].variables
    assert [variable.name for variable in every] == ["bias", "calls", "weights"]
    listed = proto.meta_graphs[0].collection_def["variables"].bytes_list.value
    listed.extend(VariableDef(variable_name=f"{name}:0").SerializeToString() for name in ("weights", "bias"))
    saved = READER.read(write(tmp_path, proto)).meta_graphs[0].variables
    assert saved == (Variable("bias", "float32", (3,)), Variable("weights", "float32", (3,)))


def test_the_assets_of_old_exports_come_from_their_collection(tmp_path: Path) -> None:
    proto = model()
    packed = proto.meta_graphs[0].collection_def["saved_model_assets"].any_list.value.add()
    packed.type_url = "type.googleapis.com/tensorflow.AssetFileDef"
    packed.value = AssetFileDef(filename="old.txt").SerializeToString()
    assert READER.read(write(tmp_path, proto)).meta_graphs[0].assets == ("old.txt",)
    proto.meta_graphs[0].asset_file_def.add(filename="new.txt")
    assert READER.read(write(tmp_path, proto)).meta_graphs[0].assets == ("new.txt",)


def test_a_model_whose_saver_restores_values_needs_the_index(tmp_path: Path) -> None:
    restoring(tmp_path, "weights")
    read = READER.read(tmp_path)
    assert read.meta_graphs[0].restores_variables
    with pytest.raises(VariablesMissingError, match=r"variables\.index is absent"):
        READER.check_complete(tmp_path, read)


def test_a_checkpoint_must_hold_every_key_that_the_graph_restores(tmp_path: Path) -> None:
    restoring(tmp_path, "weights", "bias", "scale")
    (tmp_path / "variables").mkdir()
    (tmp_path / "variables" / "variables.index").write_bytes(bundle_index({"bias": BundleEntryProto()}))
    (tmp_path / "variables" / "variables.data-00000-of-00001").write_bytes(b"")
    read = READER.read(tmp_path)
    assert read.checkpoint is not None
    assert set(read.checkpoint) == {"bias"}
    with pytest.raises(VariablesMissingError, match="lists no 'scale' and 1 more, which the graph restores"):
        READER.check_complete(tmp_path, read)


def test_an_op_that_restores_another_checkpoint_does_not_count(tmp_path: Path) -> None:
    restoring(tmp_path, "weights", prefix="checkpoint_initializer/prefix")
    read = READER.read(tmp_path)
    assert not read.meta_graphs[0].restores_variables
    READER.check_complete(tmp_path, read)


def test_a_graph_with_an_op_that_restores_but_without_saver_restores_nothing(tmp_path: Path) -> None:
    proto = model()
    proto.meta_graphs[0].CopyFrom(restoring(tmp_path, "weights"))
    proto.meta_graphs[0].ClearField("saver_def")
    assert not READER.read(write(tmp_path, proto)).meta_graphs[0].restores_variables


def test_a_saver_whose_keys_are_computed_still_needs_the_index(tmp_path: Path) -> None:
    proto = model()
    proto.meta_graphs[0].CopyFrom(restoring(tmp_path, "weights"))
    next(node for node in proto.meta_graphs[0].graph_def.node if node.name == "save/names").op = "StringSplit"
    found = READER.read(write(tmp_path, proto)).meta_graphs[0]
    assert found.restores_variables
    assert found.restored_keys == ()


@pytest.mark.parametrize("name", ["labels.txt", "sub/labels.txt"])
def test_a_listed_asset_must_be_there(tmp_path: Path, name: str) -> None:
    proto = model()
    proto.meta_graphs[0].asset_file_def.add(filename=name)
    read = READER.read(write(tmp_path, proto))
    with pytest.raises(AssetMissingError, match=f"{name} is listed"):
        READER.check_complete(tmp_path, read)
    (tmp_path / "assets" / name).parent.mkdir(parents=True)
    (tmp_path / "assets" / name).write_text("x")
    READER.check_complete(tmp_path, read)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "", "a/../../b"])
def test_an_asset_may_not_be_outside_the_export(tmp_path: Path, name: str) -> None:
    proto = model()
    proto.meta_graphs[0].asset_file_def.add(filename=name)
    read = READER.read(write(tmp_path, proto))
    with pytest.raises(UnsafeExportError):
        READER.check_complete(tmp_path, read)


def test_a_directory_without_either_file_is_not_a_saved_model(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, words in (
        (tmp_path, "holds neither"),
        (tmp_path / "absent", "not exist"),
        (tmp_path / "file", "neither"),
    ):
        with pytest.raises(NotASavedModelError, match=words):
            READER.read(path)


@pytest.mark.parametrize("name", ["saved_model.pb", "saved_model.pbtxt"])
def test_an_empty_file_holds_no_meta_graph(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(MalformedSavedModelError, match="holds no MetaGraph"):
        READER.read(tmp_path)


def test_a_pipe_is_refused_without_waiting_for_its_other_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "saved_model.pb")
    with pytest.raises(UnreadableExportError, match="not a regular file"):
        READER.read(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_without_permission_cannot_be_read(tmp_path: Path) -> None:
    write(tmp_path, model())
    (tmp_path / "saved_model.pb").chmod(0)
    with pytest.raises(UnreadableExportError, match="Permission denied"):
        READER.read(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"meta_graphs { graph_def {",
        b"meta_graphs { saver_def: 3 }",
        b"\xff\xfe",
        b"saved_model_schema_version: 99999999999999999999999",
        b"meta_graphs { graph_def { library { function { attr { key: 'a' value { "
        + b"func { attr { key: 'a' value { " * 5000,
        b"unknown { " * 5000,
    ],
)
def test_text_that_does_not_parse_is_malformed(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "saved_model.pbtxt").write_bytes(content)
    with pytest.raises(MalformedSavedModelError):
        READER.read(tmp_path)


@pytest.mark.parametrize(
    ("module", "limit", "value"),
    [(graph, "MAX_PARSED_NODE_BYTES", 1), (meta_graph, "MAX_PARSED_BYTES", 100), (text, "MAX_TEXT_BYTES", 100)],
)
def test_what_no_real_model_reaches_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: object, limit: str, value: int
) -> None:
    monkeypatch.setattr(module, limit, value)
    monkeypatch.setattr(graph, "MAX_PARSED_BYTES", 0)
    if module is text:
        (tmp_path / "saved_model.pbtxt").write_text(TEXT)
    else:
        restoring(tmp_path, "weights")
    with pytest.raises(MalformedSavedModelError):
        READER.read(tmp_path)


@pytest.mark.parametrize("path", sorted(UPSTREAM.glob("saved_model_*/00000123")), ids=lambda path: path.parent.name)
def test_a_graph_that_is_stepped_through_reads_the_same(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = READER.read(path)
    monkeypatch.setattr(graph, "MAX_PARSED_BYTES", 0)
    assert READER.read(path) == parsed


def test_a_mapped_file_reads_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, model())
    expected = READER.read(tmp_path)
    monkeypatch.setattr(reader, "MAX_READ_BYTES", 0)
    assert READER.read(tmp_path) == expected
    (tmp_path / "saved_model.pb").write_bytes(model().SerializeToString()[:-5])
    with pytest.raises(MalformedSavedModelError):
        READER.read(tmp_path)


def test_only_the_function_that_the_saver_calls_says_what_is_restored(tmp_path: Path) -> None:
    proto = model()
    meta_graph_proto = proto.meta_graphs[0]
    meta_graph_proto.saver_def.restore_op_name = "StatefulPartitionedCall_1"
    call = meta_graph_proto.graph_def.node.add(name="StatefulPartitionedCall_1", op="StatefulPartitionedCall")
    call.attr["f"].func.name = "traced_restore"
    for function, key in (("traced_restore", "kernel/value"), ("of_the_user", "elsewhere")):
        definition = meta_graph_proto.graph_def.library.function.add()
        definition.signature.name = function
        definition.node_def.add(name="restore", op="RestoreV2", input=["path", "names:output:0", "slices:output:0"])
        names = definition.node_def.add(name="names", op="Const")
        names.attr["value"].tensor.string_val.extend([key.encode(), b"_CHECKPOINTABLE_OBJECT_GRAPH"])
    assert READER.read(write(tmp_path, proto)).meta_graphs[0].restored_keys == ("kernel/value",)
