"""`inspect` on small files that are written here: which values it tells, and which options it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deployctl.cli.app import app
from deployctl.protos.saved_model_pb2 import AttrValue, GraphDef, NodeDef
from deployctl.protos.tensor_pb2 import DT_FLOAT, TensorProto, TensorShapeProto
from tests.support.models import UPSTREAM


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """A frozen graph of a placeholder and the constant "weights", which is listed by its first two values."""
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=2), TensorShapeProto.Dim(size=2)])
    weights = TensorProto(dtype=DT_FLOAT, tensor_shape=shape, float_val=[0.0, 6.0])
    attributes = {"dtype": AttrValue(type=DT_FLOAT), "value": AttrValue(tensor=weights)}
    nodes = [
        NodeDef(name="x", op="Placeholder", attr={"dtype": AttrValue(type=DT_FLOAT)}),
        NodeDef(name="weights", op="Const", attr=attributes),
        NodeDef(name="y", op="Mul", input=["x", "weights"], attr={"T": AttrValue(type=DT_FLOAT)}),
    ]
    file = tmp_path / "g.pb"
    file.write_bytes(GraphDef(node=nodes).SerializeToString())
    return file


def inspected(code: int, *words: str | Path) -> str:
    """Returns what is written on stdout, or on stderr where `inspect` fails."""
    result = CliRunner().invoke(app, ["inspect", *map(str, words)])
    assert result.exit_code == code, result.output
    return result.stderr if code else result.stdout


@pytest.mark.parametrize("name", ["weights", "weights:0"])
def test_the_values_of_a_constant_of_a_frozen_graph_are_told(graph: Path, name: str) -> None:
    pytest.importorskip("numpy")

    table = inspected(0, graph, "--values", name)
    document = json.loads(inspected(0, graph, "--values", name, "-o", "json"))

    assert f"{name}   float32 (2,2)   4 elements\nrange       0 to 6\n" in table
    assert document["first"] == [0.0, 6.0, 6.0, 6.0]


def test_a_constant_that_is_not_there_is_refused(graph: Path) -> None:
    stderr = inspected(9, graph, "--values", "y")

    assert f"{graph} has no constant 'y'" in stderr
    assert f"hint:  deployctl inspect {graph} --variables" in stderr


def test_the_ops_of_a_checkpoint_are_those_of_the_graph_beside_it() -> None:
    prefix = UPSTREAM / "bad_half_plus_two" / "00000123" / "export"

    table = inspected(0, prefix, "--ops")
    document = json.loads(inspected(0, prefix, "-o", "json"))

    assert document["ops"]["Mul"] == 1
    assert all(f"{op} " in table for op in document["ops"])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--graph", "dot", "-o", "json"), "--graph has a form of its own, and none for --output json"),
        (("--pbtxt", "-", "-o", "json"), "--pbtxt has a form of its own, and none for --output json"),
        (("--pbtxt", "-", "--values", "weights"), "--values and --pbtxt ask for different things"),
    ],
)
def test_options_of_which_one_would_be_ignored_are_refused(graph: Path, words: tuple[str, ...], told: str) -> None:
    assert told in inspected(2, graph, *words)
