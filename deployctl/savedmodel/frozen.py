"""Reads frozen graphs (a GraphDef in a file) and the graphs in `.meta` files: nodes, inputs, outputs, constants."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError

from deployctl.domain.saved_model import TensorSpec
from deployctl.errors import MalformedGraphError
from deployctl.protos.saved_model_pb2 import NodeDef, VersionDef
from deployctl.protos.tensor_pb2 import TensorProto
from deployctl.savedmodel import wire
from deployctl.savedmodel.dtypes import dtype_name, shape_of
from deployctl.savedmodel.source import content

# Field numbers of graph.proto, function.proto and node_def.proto.
_NODE, _LIBRARY, _VERSIONS = 1, 2, 4
_FUNCTION, _FUNCTION_NODE = 1, 3
_NODE_NAME, _NODE_OP, _NODE_INPUT = 1, 2, 3
# Ops that give no answer to a client, so that nobody's taking their output says nothing.
_SILENT_OPS = (
    "Const NoOp Assert Placeholder PlaceholderWithDefault SaveV2 Save RestoreV2 Assign AssignVariableOp AssignAdd "
    "AssignSub MergeSummary ScalarSummary HistogramSummary VariableV2 VarHandleOp Variable InitializeTableV2 "
    "InitializeTableFromTextFileV2 LookupTableImportV2 ShardedFilename MergeV2Checkpoints VarIsInitializedOp "
    "IsVariableInitialized ReadVariableOp"
)
_SILENT = frozenset(_SILENT_OPS.split())
# Training: what applies gradients, and what reaches it.
_TRAINING_PREFIXES = ("Apply", "ResourceApply", "SparseApply", "ResourceSparseApply")
_CONTROL_FLOW_OPS = (
    "Switch Merge Enter Exit NextIteration LoopCond While StatelessWhile If StatelessIf Case StatelessCase "
    "RefSwitch RefMerge For"
)
_CONTROL_FLOW = frozenset(_CONTROL_FLOW_OPS.split())
_LARGEST_PARSED = 1 << 30


@dataclass(frozen=True, slots=True)
class Node:
    """One node of a graph, and where it lies in the file."""

    name: str
    op: str
    inputs: tuple[str, ...]
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class FrozenGraph:
    """What a GraphDef declares.

    Attributes:
        inputs: the placeholders, by tensor name.
        outputs: tensors that no other node takes, by tensor name: what is asked for, as far as a graph can say. Their
            type is that of the node's attribute T, "" where there is none; the shape is unknown.
        constants: type and shape of every Const with its bytes in the file, largest first.
        function_ops: how often each op occurs in the function library.
        producer: GraphDef.versions.producer.
        size_bytes: of the whole file.
    """

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    graph_ops: Mapping[str, int]
    function_ops: Mapping[str, int]
    constants: tuple[tuple[TensorSpec, int], ...]
    producer: int
    min_consumer: int
    size_bytes: int

    @property
    def ops(self) -> Mapping[str, int]:
        """Every op of the graph and of the function library."""
        return dict(sorted((Counter(self.graph_ops) + Counter(self.function_ops)).items()))


def control_flow(ops: Mapping[str, int]) -> dict[str, int]:
    """Returns the ops among `ops` that branch or loop."""
    return {op: count for op, count in ops.items() if op in _CONTROL_FLOW}


def read_frozen(path: Path) -> FrozenGraph:
    """Returns what the GraphDef in `path` declares.

    Raises:
        MalformedGraphError: it is not a whole GraphDef.
        UnreadableExportError: it cannot be read.
    """
    with content(path) as data:
        try:
            return frozen_graph(data)
        except (wire.WireError, DecodeError, UnicodeDecodeError) as error:
            raise MalformedGraphError(
                str(path), f"is not a whole GraphDef: {error}", hint=f"sha256sum {path}"
            ) from error


def constant(path: Path, name: str) -> tuple[TensorSpec, TensorProto] | None:
    """Returns the Const `name` of the graph in `path`, its spec and its values; None without one.

    Args:
        path: of the frozen graph.
        name: of the node; ":0" may follow.

    Raises:
        MalformedGraphError: as `read_frozen`.
    """
    with content(path) as data:
        try:
            for node in _nodes(wire.Walker(data), 0, len(data), _NODE):
                if node.name == name.partition(":")[0] and node.op == "Const":
                    return _constant(data, node), _parsed(data, node).attr["value"].tensor
        except (wire.WireError, DecodeError, UnicodeDecodeError) as error:
            raise MalformedGraphError(
                str(path), f"is not a whole GraphDef: {error}", hint=f"sha256sum {path}"
            ) from error
    return None


def candidates(data: memoryview, start: int, stop: int) -> tuple[dict[str, TensorSpec], dict[str, TensorSpec]]:
    """Returns the placeholders and the tensors that nothing takes, of the GraphDef in data[start:stop].

    Nodes that only training reaches are left out.
    """
    nodes = list(_nodes(wire.Walker(data), start, stop, _NODE))
    return _inputs(data, nodes), _outputs(data, nodes)


def frozen_graph(data: memoryview) -> FrozenGraph:
    """Returns what the GraphDef in `data` declares.

    Raises:
        WireError, DecodeError, UnicodeDecodeError: it is not a whole GraphDef.
    """
    walker = wire.Walker(data)
    nodes = list(_nodes(walker, 0, len(data), _NODE))
    if not nodes or any(not node.op or not node.name for node in nodes):
        raise wire.WireError("a node has no name or no op")
    functions: Counter[str] = Counter()
    for library in walker.messages(0, len(data), _LIBRARY):
        for function in walker.messages(*library, _FUNCTION):
            functions.update(node.op for node in _nodes(walker, *function, _FUNCTION_NODE))
    versions = VersionDef()
    for place in walker.messages(0, len(data), _VERSIONS):
        versions.MergeFromString(bytes(data[place[0] : place[1]]))
    constants = [(_constant(data, node), node.stop - node.start) for node in nodes if node.op == "Const"]
    return FrozenGraph(
        inputs=_inputs(data, nodes),
        outputs=_outputs(data, nodes),
        graph_ops=dict(sorted(Counter(node.op for node in nodes).items())),
        function_ops=dict(sorted(functions.items())),
        constants=tuple(sorted(constants, key=lambda each: (-each[1], each[0].tensor))),
        producer=versions.producer,
        min_consumer=versions.min_consumer,
        size_bytes=len(data),
    )


def _nodes(walker: wire.Walker, start: int, stop: int, number: int) -> Iterator[Node]:
    data = walker.data
    for begin, end in walker.messages(start, stop, number):
        name = op = ""
        inputs = []
        for field in walker.fields(begin, end):
            if field.number == _NODE_NAME:
                name = bytes(data[slice(*field.content())]).decode()
            elif field.number == _NODE_OP:
                op = bytes(data[slice(*field.content())]).decode()
            elif field.number == _NODE_INPUT:
                inputs.append(bytes(data[slice(*field.content())]).decode())
        yield Node(name, op, tuple(inputs), begin, end)


def _parsed(data: memoryview, node: Node) -> NodeDef:
    if node.stop - node.start > _LARGEST_PARSED:
        raise wire.WireError(f"the node {node.name} has {node.stop - node.start} bytes")
    return NodeDef.FromString(bytes(data[node.start : node.stop]))


def _constant(data: memoryview, node: Node) -> TensorSpec:
    tensor = _parsed(data, node).attr["value"].tensor
    return TensorSpec(dtype_name(tensor.dtype), shape_of(tensor.tensor_shape), f"{node.name}:0")


def _inputs(data: memoryview, nodes: list[Node]) -> dict[str, TensorSpec]:
    found = {}
    for node in nodes:
        if node.op in ("Placeholder", "PlaceholderWithDefault"):
            attributes = _parsed(data, node).attr
            shape = shape_of(attributes["shape"].shape) if "shape" in attributes else None
            name = f"{node.name}:0"
            found[name] = TensorSpec(dtype_name(attributes["dtype"].type), shape, name)
    return found


def _outputs(data: memoryview, nodes: list[Node]) -> dict[str, TensorSpec]:
    serving = [node for node in nodes if not _trains(node)]
    taken = {name.lstrip("^").partition(":")[0] for node in serving for name in node.inputs}
    found = {}
    for node in serving:
        if node.name not in taken and node.op not in _SILENT and node.inputs and not node.inputs[0].startswith("^"):
            attributes = _parsed(data, node).attr
            kind = dtype_name(attributes["T"].type) if "T" in attributes and attributes["T"].type else ""
            found[f"{node.name}:0"] = TensorSpec(kind, None, f"{node.name}:0")
    return found


def _trains(node: Node) -> bool:
    scopes = node.name.split("/")
    return (
        node.op.startswith(_TRAINING_PREFIXES) or node.op in _SILENT or "gradients" in scopes or scopes[0] == "save"
    ) and node.op not in ("Placeholder", "PlaceholderWithDefault", "Const")
