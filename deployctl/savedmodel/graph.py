"""Walks a GraphDef down to its nodes: ops, variables and what the saver restores.

Nodes are stepped through with `wire`; protobuf parses only the few whose contents are wanted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from deployctl.domain.saved_model import Variable
from deployctl.protos.saved_model_pb2 import NodeDef
from deployctl.savedmodel import wire
from deployctl.savedmodel.dtypes import dtype_name, shape_of

# Field numbers of graph.proto, function.proto and node_def.proto.
_GRAPH_NODE, _GRAPH_LIBRARY = 1, 2
_LIBRARY_FUNCTION = 1
_FUNCTION_NODE = 3
_NODE_NAME, _NODE_OP = 1, 2

_VARIABLE_OPS = frozenset({b"VarHandleOp", b"VariableV2", b"Variable"})
_RESTORE_OP = b"RestoreV2"
_NOTABLE_OPS = _VARIABLE_OPS | {_RESTORE_OP}
# An empty node takes two bytes: without a limit a file of 500 MB holds 250 million of them and keeps a checker
# busy for minutes. The largest graphs in use have some hundred thousand.
MAX_NODES = 5_000_000
# Nodes that are parsed (variables, names to restore) are small; no real one comes near this.
MAX_PARSED_NODE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Restore:
    """One RestoreV2 node.

    Attributes:
        prefix: the name of the node or function argument that gives the path of the checkpoint.
        in_function: whether the node is in the function library.
        keys: the keys that it reads, or None when they are not a constant.
    """

    prefix: str
    in_function: bool
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

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._nodes = 0
        self._graph_ops: Counter[bytes] = Counter()
        self._function_ops: Counter[bytes] = Counter()
        self._variables: list[Variable] = []
        self._restores: list[Restore] = []

    def walk(self, start: int, stop: int) -> None:
        """Adds the GraphDef in data[start:stop].

        Raises:
            wire.WireError: it is not a GraphDef, or has more than MAX_NODES nodes.
            google.protobuf.message.DecodeError: a node that had to be parsed is malformed.
        """
        restores = self._walk_nodes(start, stop, _GRAPH_NODE, self._graph_ops)
        self._restores += self._resolve(restores, start, stop, _GRAPH_NODE)
        for library in wire.messages(self._data, start, stop, _GRAPH_LIBRARY):
            for function in wire.messages(self._data, *library, _LIBRARY_FUNCTION):
                restores = self._walk_nodes(*function, _FUNCTION_NODE, self._function_ops)
                self._restores += self._resolve(restores, *function, _FUNCTION_NODE)

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
        data, restores = self._data, []
        for node_start, node_stop in wire.messages(data, start, stop, number):
            op_start, op_stop = wire.last_bytes(data, node_start, node_stop, _NODE_OP)
            op = bytes(data[op_start:op_stop])
            ops[op] += 1
            self._nodes += 1
            if op in _NOTABLE_OPS:
                node = self._parse(node_start, node_stop)
                if op == _RESTORE_OP:
                    restores.append(node)
                elif ops is self._graph_ops:
                    self._variables.append(_variable(node))
            if self._nodes > MAX_NODES:
                raise wire.WireError(f"there are more than {MAX_NODES} nodes")
        return restores

    def _parse(self, start: int, stop: int) -> NodeDef:
        if stop - start > MAX_PARSED_NODE_BYTES:
            raise wire.WireError(f"the node at byte {start} has {stop - start} bytes")
        return NodeDef.FromString(bytes(self._data[start:stop]))

    def _resolve(self, nodes: list[NodeDef], start: int, stop: int, number: int) -> list[Restore]:
        """Finds the constants with the keys that `nodes` restore, among their neighbours."""
        if not nodes:
            return []
        wanted = {_producer(node, 1).encode() for node in nodes}
        keys = {}
        for node_start, node_stop in wire.messages(self._data, start, stop, number):
            name_start, name_stop = wire.last_bytes(self._data, node_start, node_stop, _NODE_NAME)
            name = bytes(self._data[name_start:name_stop])
            if name in wanted:
                keys[name] = _string_constant(self._parse(node_start, node_stop))
        in_function = number == _FUNCTION_NODE
        return [Restore(_producer(node, 0), in_function, keys.get(_producer(node, 1).encode())) for node in nodes]


def _producer(node: NodeDef, index: int) -> str:
    """The name of the node that gives input `index`: "a" for "a", "a:0" and, in functions, "a:output:0"."""
    return node.input[index].partition(":")[0] if index < len(node.input) else ""


def _string_constant(node: NodeDef) -> frozenset[str] | None:
    if node.op != "Const" or "value" not in node.attr:
        return None
    return frozenset(value.decode("utf-8", "replace") for value in node.attr["value"].tensor.string_val)


def _variable(node: NodeDef) -> Variable:
    return Variable(node.name, dtype_name(node.attr["dtype"].type), shape_of(node.attr["shape"].shape))
