"""SavedModels of one node for each signature, written without TensorFlow: what goes in comes out, or its length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployctl.protos.saved_model_pb2 import AttrValue, MetaGraphDef, NodeDef, SavedModel, SignatureDef
from deployctl.protos.tensor_pb2 import DataType

NUMBERS = ("float32", "float64", "int8", "int32", "int64", "uint8", "uint64", "bool")
_NAMES = {"float32": "DT_FLOAT", "float64": "DT_DOUBLE"}


@dataclass(frozen=True)
class Node:
    """The one node of a signature: the input `x` is of type `takes`, the output `y` of type `gives`."""

    takes: str
    gives: str
    op: str = "Cast"
    x: str = "x"
    y: str = "y"


def write_model(folder: Path, nodes: Mapping[str, Node]) -> Path:
    """Writes a SavedModel with a signature for each of `nodes` to `folder`, and returns it."""
    meta = MetaGraphDef()
    meta.meta_info_def.tags.append("serve")
    for key, node in nodes.items():
        takes, gives = _number(node.takes), _number(node.gives)
        fed = NodeDef(name=f"{key}_x", op="Placeholder", attr={"dtype": AttrValue(type=takes)})
        attributes = {"SrcT": AttrValue(type=takes), "DstT": AttrValue(type=gives)} if node.op == "Cast" else {}
        if node.op == "Identity":
            attributes = {"T": AttrValue(type=takes)}
        meta.graph_def.node.extend([fed, NodeDef(name=f"{key}_y", op=node.op, input=[fed.name], attr=attributes)])
        signature = SignatureDef(method_name="tensorflow/serving/predict")
        for side, name, tensor, dtype in (
            (signature.inputs, node.x, f"{key}_x:0", takes),
            (signature.outputs, node.y, f"{key}_y:0", gives),
        ):
            side[name].name, side[name].dtype = tensor, dtype
            side[name].tensor_shape.unknown_rank = True
        meta.signature_def[key].CopyFrom(signature)
    folder.mkdir(parents=True)
    model = SavedModel(saved_model_schema_version=1, meta_graphs=[meta])
    (folder / "saved_model.pb").write_bytes(model.SerializeToString())
    return folder


def write_zoo(folder: Path) -> Path:
    """A signature for each number type and "echo" for strings, which return `x`; "length" of strings is the default."""
    nodes = {name: Node(name, name, "Identity") for name in (*NUMBERS, "string")}
    return write_model(folder, {"serving_default": Node("string", "int32", "StringLength", y="len"), **nodes})


def _number(dtype: str) -> Any:
    return DataType.Value(_NAMES.get(dtype, f"DT_{dtype.upper()}"))
