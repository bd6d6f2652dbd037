"""What we read of real SavedModels is what TensorFlow's own tool says, and broken copies are refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from deployctl.domain.saved_model import MetaGraph, TensorSpec, Variable
from deployctl.errors import (
    AssetMissingError,
    InvalidModelError,
    MalformedSavedModelError,
    NotASavedModelError,
    VariablesMissingError,
    VariablesTruncatedError,
)
from deployctl.protos.saved_model_pb2 import NodeDef
from deployctl.protos.tensor_pb2 import DataType
from deployctl.savedmodel.bundle import read_bundle
from deployctl.savedmodel.dtypes import dtype_name
from deployctl.savedmodel.reader import ProtobufSavedModelReader
from tests.support.build_models import NUMERIC_DTYPES
from tests.support.models import ROOT, UPSTREAM, TensorFlowModels
from tests.support.tables import varint

READER = ProtobufSavedModelReader()
UPSTREAM_EXPORTS = [
    "matrix_half_plus_two/1",
    "saved_model_half_plus_three/00000123",
    "saved_model_half_plus_two_cpu/00000123",
    "saved_model_half_plus_two_tf2_cpu/00000123",
]
BUILT = [
    "keras_two_outputs",
    "segmentation",
    "vocabulary",
    "several_signatures",
    "without_variables",
    "every_dtype",
    "unknown_op",
    "tensorflow_1",
    "tensorflow_1_text",
    "sparse_input",
    "half_plus_2",
]


@dataclass
class Shown:
    """One MetaGraph as `saved_model_cli show --all` prints it: (dtype, shape, tensor) by side and name."""

    tags: set[str]
    methods: dict[str, str] = field(default_factory=dict)
    tensors: dict[tuple[str, str, str], tuple[str, str, str]] = field(default_factory=dict)
    ops: set[str] = field(default_factory=set)


# The tool's own function for `show --all`, for all models in one process: importing TensorFlow takes seconds.
SHOW_ALL = """
import contextlib, io, json, sys
from tensorflow.python.tools import saved_model_cli
shown = {}
for path in sys.argv[1:]:
    with contextlib.redirect_stdout(io.StringIO()) as output:
        saved_model_cli._show_all(path)
    shown[path] = output.getvalue()
json.dump(shown, sys.stdout)
"""


@pytest.fixture(scope="module")
def shown(tensorflow_models: TensorFlowModels) -> dict[str, list[Shown]]:
    """What `saved_model_cli show --all` prints of each model, by the model's name."""
    paths = {str(UPSTREAM / name): name for name in UPSTREAM_EXPORTS}
    paths |= {str(tensorflow_models.path(name)): name for name in BUILT}
    command = [sys.executable, "-c", SHOW_ALL, *paths]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return {paths[path]: parse(output) for path, output in json.loads(done.stdout).items()}


def parse(output: str) -> list[Shown]:
    """Returns what the tool printed, as values."""
    graphs: list[Shown] = []
    key = side = name = ""
    for line in output.split("\nConcrete Functions:")[0].splitlines():
        if found := re.match(r"MetaGraphDef with tag-set: '(.*)' contains", line):
            graphs.append(Shown(set(re.split(r",\s*", found[1]))))
        elif found := re.match(r"signature_def\['(.*)'\]:", line):
            key = found[1]
        elif found := re.match(r" +(inputs|outputs)\['(.*)'\] tensor_info:", line):
            side, name = found[1], found[2]
        elif found := re.match(r" +(dtype|shape|name): (.*)", line):
            graphs[-1].tensors[key, side, name] = (*graphs[-1].tensors.get((key, side, name), ()), found[2])
        elif found := re.match(r"  Method name is: ?(.*)", line):
            graphs[-1].methods[key] = found[1]
        elif found := re.match(r"The MetaGraph with tag set .* contains the following ops: \{(.*)\}", line):
            graphs[-1].ops = set(re.findall(r"'([^']*)'", found[1]))
    return graphs


def spelled(spec: TensorSpec) -> tuple[str, str, str]:
    """A tensor in the tool's words."""
    enum = next(name for name, number in DataType.items() if dtype_name(number) == spec.dtype)
    if spec.shape is None:
        return enum, "unknown_rank", spec.tensor
    return enum, f"({', '.join('-1' if size is None else str(size) for size in spec.shape)})", spec.tensor


def as_shown(graph: MetaGraph) -> Shown:
    """What the tool should print of what we read."""
    shown = Shown(set(graph.tags), ops=set(graph.ops))
    for key, signature in graph.signatures.items():
        shown.methods[key] = signature.method
        for side, specs in (("inputs", signature.inputs), ("outputs", signature.outputs)):
            shown.tensors.update({(key, side, name): spelled(spec) for name, spec in specs.items()})
    return shown


def agree(export: Path, theirs: list[Shown]) -> None:
    ours = [as_shown(graph) for graph in READER.read(export).meta_graphs]
    assert theirs
    assert sorted(ours, key=lambda graph: sorted(graph.tags)) == sorted(theirs, key=lambda graph: sorted(graph.tags))


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", UPSTREAM_EXPORTS)
def test_agrees_with_saved_model_cli_on_upstream_models(shown: dict[str, list[Shown]], name: str) -> None:
    agree(UPSTREAM / name, shown[name])


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", BUILT)
def test_agrees_with_saved_model_cli_on_fresh_exports(
    shown: dict[str, list[Shown]], tensorflow_models: TensorFlowModels, name: str
) -> None:
    agree(tensorflow_models.path(name), shown[name])


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", BUILT)
def test_fresh_exports_are_complete(tensorflow_models: TensorFlowModels, name: str) -> None:
    path = tensorflow_models.path(name)
    READER.check_complete(path, READER.read(path))


@pytest.mark.parametrize("name", UPSTREAM_EXPORTS)
def test_upstream_exports_are_complete(name: str) -> None:
    READER.check_complete(UPSTREAM / name, READER.read(UPSTREAM / name))


@pytest.mark.tensorflow
def test_reads_types_assets_variables_and_optional_inputs(tensorflow_models: TensorFlowModels) -> None:
    (graph,) = READER.read(tensorflow_models.path("every_dtype")).meta_graphs
    signature = graph.signatures["serving_default"]
    assert {spec.dtype for spec in signature.outputs.values()} == set(NUMERIC_DTYPES)
    assert all(spec.dtype == name.removeprefix("in_") for name, spec in signature.inputs.items())

    (graph,) = READER.read(tensorflow_models.path("vocabulary")).meta_graphs
    assert graph.assets == ("vocabulary.txt",)
    assert graph.variables == (Variable("embedding", "float32", (5, 2)),)

    (graph,) = READER.read(tensorflow_models.path("several_signatures")).meta_graphs
    assert set(graph.callable_signatures) == {"serving_default", "shift", "norm"}
    assert graph.signatures["shift"].optional_inputs == {"by"}

    (graph,) = READER.read(tensorflow_models.path("unknown_op")).meta_graphs
    assert graph.function_ops["MyCompanyMul"] == 1
    assert "MyCompanyMul" not in graph.graph_ops


@pytest.mark.tensorflow
def test_reads_both_tag_sets_and_the_saved_variables_of_tensorflow_1(tensorflow_models: TensorFlowModels) -> None:
    for name in ("tensorflow_1", "tensorflow_1_text"):
        model = READER.read(tensorflow_models.path(name))
        assert {graph.tags for graph in model.meta_graphs} == {("serve",), ("gpu", "serve")}
        served = model.tagged("serve")
        assert served is not None
        assert [variable.name for variable in served.variables] == ["bias", "weights/part_0", "weights/part_1"]
        assert served.restored_keys == ("bias", "weights")
        assert served.assets == ("labels.txt",)


@pytest.mark.tensorflow
def test_reads_the_checkpoint_that_tensorflow_wrote(tensorflow_models: TensorFlowModels) -> None:
    export = tensorflow_models.path("keras_two_outputs")
    model = READER.read(export)
    assert model.checkpoint is not None
    bundle = read_bundle(export / "variables" / "variables")
    values = [entry for key, entry in bundle.tensors.items() if key.startswith("_all_variables/")]
    assert sum(entry.size for entry in values) == 4 * (4 * 8 + 8 + 8 * 3 + 3 + 8 + 1)
    assert model.meta_graphs[0].restored_keys == tuple(
        sorted(model.checkpoint.keys() - {"_CHECKPOINTABLE_OBJECT_GRAPH"})
    )


@pytest.mark.tensorflow
def test_a_model_without_variables_needs_no_checkpoint(tensorflow_models: TensorFlowModels, tmp_path: Path) -> None:
    export = tensorflow_models.copy("without_variables", tmp_path / "export")
    model = READER.read(export)
    assert not model.meta_graphs[0].restores_variables
    shutil.rmtree(export / "variables")
    READER.check_complete(export, model)


BOTH = pytest.mark.parametrize("name", UPSTREAM_EXPORTS[1:])


@pytest.fixture
def export(name: str, tmp_path: Path) -> Path:
    """A copy of an upstream export with variables."""
    return shutil.copytree(UPSTREAM / name, tmp_path / "export")


def refusal(export: Path) -> InvalidModelError:
    """The error of a broken copy, whichever step finds it."""
    with pytest.raises(InvalidModelError) as caught:
        READER.check_complete(export, READER.read(export))
    return caught.value


@BOTH
def test_refuses_a_copy_without_variables(export: Path) -> None:
    shutil.rmtree(export / "variables")
    assert isinstance(refusal(export), VariablesMissingError)


@BOTH
def test_refuses_a_copy_without_variables_index(export: Path) -> None:
    (export / "variables" / "variables.index").unlink()
    assert isinstance(refusal(export), VariablesMissingError)


@BOTH
def test_refuses_a_copy_without_variables_data(export: Path) -> None:
    (export / "variables" / "variables.data-00000-of-00001").unlink()
    assert isinstance(refusal(export), VariablesMissingError)


@BOTH
@pytest.mark.parametrize("kept", [0, 1, -1])
def test_refuses_a_copy_with_truncated_variables_data(export: Path, kept: int) -> None:
    data = export / "variables" / "variables.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:kept])
    assert isinstance(refusal(export), VariablesTruncatedError)


@BOTH
@pytest.mark.parametrize("kept", [0, 47, 60, -1])
def test_refuses_a_copy_with_a_truncated_index(export: Path, kept: int) -> None:
    index = export / "variables" / "variables.index"
    index.write_bytes(index.read_bytes()[:kept])
    assert isinstance(refusal(export), VariablesTruncatedError)


@BOTH
def test_refuses_a_copy_with_a_truncated_saved_model(export: Path) -> None:
    file = export / "saved_model.pb"
    file.write_bytes(file.read_bytes()[:-1])
    assert isinstance(refusal(export), MalformedSavedModelError)


@BOTH
def test_refuses_a_copy_with_an_empty_saved_model(export: Path) -> None:
    (export / "saved_model.pb").write_bytes(b"")
    assert isinstance(refusal(export), MalformedSavedModelError)


@BOTH
def test_refuses_a_copy_without_assets(export: Path) -> None:
    shutil.rmtree(export / "assets")
    assert isinstance(refusal(export), AssetMissingError)


def test_refuses_an_empty_directory_and_a_plain_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    (tmp_path / "empty").mkdir()
    assert isinstance(refusal(tmp_path / "empty"), NotASavedModelError)
    assert isinstance(refusal(tmp_path / "file"), NotASavedModelError)
    assert str(refusal(tmp_path / "absent")).endswith("absent does not exist")


READ_AND_MEASURE = """
import sys
from pathlib import Path
from deployctl.savedmodel.reader import ProtobufSavedModelReader
model = ProtobufSavedModelReader().read(Path(sys.argv[1]))
# Not ru_maxrss, which begins with the memory of the process that forked this one.
(peak,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
print(model.meta_graphs[0].graph_ops, int(peak.split()[1]) // 1024)
"""


def message(number: int, *parts: bytes, more: int = 0) -> bytes:
    """The wire format of a message field of which the last `more` bytes are still to come."""
    content = b"".join(parts)
    return varint(number << 3 | 2) + varint(len(content) + more) + content


def test_a_saved_model_of_500_megabytes_is_neither_read_nor_copied(tmp_path: Path) -> None:
    size = 500 << 20
    node = NodeDef(name="weights", op="Const").SerializeToString()
    tensor = message(4, more=size)
    attr = message(5, message(1, b"value"), message(2, message(8, tensor, more=size), more=size), more=size)
    graph = message(2, message(1, node, attr, more=size), more=size)
    with (tmp_path / "saved_model.pb").open("wb") as file:
        file.write(message(2, graph, more=size))
        # A hole: the file system stores nothing for it.
        file.truncate(file.tell() + size)
    done = subprocess.run(
        [sys.executable, "-c", READ_AND_MEASURE, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    ops, megabytes = done.stdout.rsplit(" ", 1)
    assert ops == "{'Const': 1}"
    assert int(megabytes) < 200
