"""Walks a GraphDef down to its nodes: ops, variables and what the saver restores.

Nodes are stepped through with `wire`; protobuf parses only the few whose contents are wanted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from deployctl.domain.saved_model import Variable
from deployctl.protos.saved_model_pb2 import NodeDef
from deployctl.savedmodel import wire
from deployctl.savedmodel.dtypes import dtype_name, shape_of

# Field numbers of graph.proto, function.proto and node_def.proto.
_GRAPH_NODE, _GRAPH_LIBRARY = 1, 2
_LIBRARY_FUNCTION = 1
_FUNCTION_SIGNATURE, _FUNCTION_NODE = 1, 3
_SIGNATURE_NAME = 1
_NODE_NAME, _NODE_OP = 1, 2

_VARIABLE_OPS = frozenset({b"VarHandleOp", b"VariableV2", b"Variable"})
_RESTORE_OP = b"RestoreV2"
_NOTABLE_OPS = _VARIABLE_OPS | {_RESTORE_OP}
# Nodes that are parsed (variables, names to restore) are small; no real one comes near this.
MAX_PARSED_NODE_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Restore:
    """One RestoreV2 node.

    Attributes:
        prefix: the name of the node or function argument that gives the path of the checkpoint.
        function: the function that it is in, "" for the graph itself.
        keys: the keys that it reads, or None when they are not a constant.
    """

    prefix: str
    function: str
    keys: frozenset[str] | None


@dataclass(frozen=True, slots=True)
class Graph:
    """What a GraphDef holds; the attributes are those of MetaGraph."""

    graph_ops: Mapping[str, int]
    function_ops: Mapping[str, int]
    variables: tuple[Variable, ...]
    restores: tuple[Restore, ...]


class GraphWalker:
    """Adds up the GraphDefs it is shown.

    A MetaGraphDef that holds several graph_def fields is read as protobuf reads it: as their concatenation.
    """

    def __init__(self, walker: wire.Walker) -> None:
        self._walker = walker
        self._graphs: list[tuple[int, int]] = []
        self._graph_ops: Counter[bytes] = Counter()
        self._function_ops: Counter[bytes] = Counter()
        self._variables: list[Variable] = []
        self._restores: list[Restore] = []

    def walk(self, start: int, stop: int) -> None:
        """Adds the GraphDef in data[start:stop].

        Raises:
            wire.WireError: it is not a GraphDef, or larger than any real one.
            google.protobuf.message.DecodeError: a node that had to be parsed is malformed.
        """
        self._graphs.append((start, stop))
        restores = self._walk_nodes(start, stop, _GRAPH_NODE, self._graph_ops)
        self._restores += self._resolve(restores, start, stop, _GRAPH_NODE)
        for library in self._walker.messages(start, stop, _GRAPH_LIBRARY):
            for function in self._walker.messages(*library, _LIBRARY_FUNCTION):
                restores = self._walk_nodes(*function, _FUNCTION_NODE, self._function_ops)
                self._restores += self._resolve(restores, *function, _FUNCTION_NODE)

    def function_called_by(self, name: str) -> str:
        """Returns the name of the function that the graph's node `name` calls, "" when it calls none.

        Raises:
            google.protobuf.message.DecodeError: the node is malformed.
        """
        for graph in self._graphs:
            for node in self._named(graph[0], graph[1], _GRAPH_NODE, {name.encode()}):
                return node.attr["f"].func.name if "f" in node.attr else ""
        return ""

    def result(self) -> Graph:
        """Returns the sum.

        Raises:
            UnicodeDecodeError: an op's name is not UTF-8.
        """
        return Graph(
            graph_ops={op.decode(): count for op, count in sorted(self._graph_ops.items())},
            function_ops={op.decode(): count for op, count in sorted(self._function_ops.items())},
            variables=tuple(sorted(self._variables, key=lambda variable: variable.name)),
            restores=tuple(self._restores),
        )

    def _walk_nodes(self, start: int, stop: int, number: int, ops: Counter[bytes]) -> list[NodeDef]:
        """Counts the ops of the nodes in field `number` and returns the nodes that restore."""
        walker, restores = self._walker, []
        for node_start, node_stop in walker.messages(start, stop, number):
            op = walker.last_bytes(node_start, node_stop, _NODE_OP)
            ops[op] += 1
            if op in _NOTABLE_OPS:
                node = self._parse(node_start, node_stop)
                if op == _RESTORE_OP:
                    restores.append(node)
                elif ops is self._graph_ops:
                    self._variables.append(_variable(node))
        return restores

    def _parse(self, start: int, stop: int) -> NodeDef:
        if stop - start > MAX_PARSED_NODE_BYTES:
            raise wire.WireError(f"the node at byte {start} has {stop - start} bytes")
        return NodeDef.FromString(bytes(self._walker.data[start:stop]))

    def _resolve(self, nodes: list[NodeDef], start: int, stop: int, number: int) -> list[Restore]:
        """Finds the constants with the keys that `nodes` restore, among their neighbours."""
        if not nodes:
            return []
        wanted = {_producer(node, 1).encode() for node in nodes}
        keys = {node.name: _string_constant(node) for node in self._named(start, stop, number, wanted)}
        function = self._function_name(start, stop) if number == _FUNCTION_NODE else ""
        return [Restore(_producer(node, 0), function, keys.get(_producer(node, 1))) for node in nodes]

    def _named(self, start: int, stop: int, number: int, names: set[bytes]) -> Iterator[NodeDef]:
        for node_start, node_stop in self._walker.messages(start, stop, number):
            if self._walker.last_bytes(node_start, node_stop, _NODE_NAME) in names:
                yield self._parse(node_start, node_stop)

    def _function_name(self, start: int, stop: int) -> str:
        name = b""
        for signature in self._walker.messages(start, stop, _FUNCTION_SIGNATURE):
            name = self._walker.last_bytes(*signature, _SIGNATURE_NAME) or name
        return name.decode()


def _producer(node: NodeDef, index: int) -> str:
    """The name of the node that gives input `index`: "a" for "a", "a:0" and, in functions, "a:output:0"."""
    return node.input[index].partition(":")[0] if index < len(node.input) else ""


def _string_constant(node: NodeDef) -> frozenset[str] | None:
    if node.op != "Const" or "value" not in node.attr:
        return None
    return frozenset(value.decode("utf-8", "replace") for value in node.attr["value"].tensor.string_val)


def _variable(node: NodeDef) -> Variable:
    return Variable(node.name, dtype_name(node.attr["dtype"].type), shape_of(node.attr["shape"].shape))
