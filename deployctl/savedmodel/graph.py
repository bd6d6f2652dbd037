"""Walks a GraphDef down to its nodes: ops, variables and what the saver restores.

Protobuf parses names and ops; the nodes of large graphs are stepped through with `wire` instead. Either way it parses
the whole of those few whose contents are wanted.
"""

from __future__ import annotations

import abc
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from deployctl.domain.saved_model import Variable
from deployctl.protos import nodes_pb2
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
_RESTORE = "RestoreV2"
_NOTABLE_OPS = _VARIABLE_OPS | {_RESTORE.encode()}
# Larger graphs are mostly constants, which protobuf would copy; and millions of nodes would take gigabytes.
MAX_PARSED_BYTES = 4 << 20
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


class _Scope(abc.ABC):
    """The nodes of a graph, or of one function of its library."""

    @abc.abstractmethod
    def count(self, ops: Counter[bytes]) -> list[NodeDef]:
        """Counts the ops, and returns the nodes that are variables or restore."""

    @abc.abstractmethod
    def named(self, names: Collection[bytes]) -> Iterator[NodeDef]:
        """Yields the nodes of these names."""

    @property
    @abc.abstractmethod
    def function(self) -> str:
        """The name of the function, "" for the graph itself."""


class _ScannedScope(_Scope):
    """Of a large graph, in data[start:stop]: stepped through, so that constants are neither read nor copied."""

    def __init__(self, walker: wire.Walker, start: int, stop: int, number: int) -> None:
        self._walker = walker
        self._start = start
        self._stop = stop
        self._number = number

    def count(self, ops: Counter[bytes]) -> list[NodeDef]:
        walker, found = self._walker, []
        for start, stop in walker.messages(self._start, self._stop, self._number):
            op = walker.last_bytes(start, stop, _NODE_OP)
            ops[op] += 1
            if op in _NOTABLE_OPS:
                found.append(self._parse(start, stop))
        return found

    def named(self, names: Collection[bytes]) -> Iterator[NodeDef]:
        for start, stop in self._walker.messages(self._start, self._stop, self._number):
            if self._walker.last_bytes(start, stop, _NODE_NAME) in names:
                yield self._parse(start, stop)

    @property
    def function(self) -> str:
        name = b""
        if self._number == _FUNCTION_NODE:
            for signature in self._walker.messages(self._start, self._stop, _FUNCTION_SIGNATURE):
                name = self._walker.last_bytes(*signature, _SIGNATURE_NAME) or name
        return name.decode()

    def _parse(self, start: int, stop: int) -> NodeDef:
        if stop - start > MAX_PARSED_NODE_BYTES:
            raise wire.WireError(f"the node at byte {start} has {stop - start} bytes")
        return NodeDef.FromString(bytes(self._walker.data[start:stop]))


class _ParsedScope(_Scope):
    """Of a small graph, whose names and ops protobuf has parsed: twenty times as fast as Python steps through them."""

    def __init__(self, nodes: Iterable[nodes_pb2.Node], function: bytes = b"") -> None:
        self._nodes = nodes
        self._function = function

    def count(self, ops: Counter[bytes]) -> list[NodeDef]:
        own = Counter(node.op for node in self._nodes)
        ops.update(own)
        if _NOTABLE_OPS.isdisjoint(own):
            return []
        return [_whole(node) for node in self._nodes if node.op in _NOTABLE_OPS]

    def named(self, names: Collection[bytes]) -> Iterator[NodeDef]:
        return (_whole(node) for node in self._nodes if node.name in names)

    @property
    def function(self) -> str:
        return self._function.decode()


class GraphWalker:
    """Adds up the GraphDefs it is shown.

    A MetaGraphDef that holds several graph_def fields is read as protobuf reads it: as their concatenation.
    """

    def __init__(self, walker: wire.Walker) -> None:
        self._walker = walker
        self._graphs: list[_Scope] = []
        self._graph_ops: Counter[bytes] = Counter()
        self._function_ops: Counter[bytes] = Counter()
        self._variables: list[Variable] = []
        self._restores: list[Restore] = []

    def walk(self, start: int, stop: int) -> None:
        """Adds the GraphDef in data[start:stop].

        Raises:
            wire.WireError: it is not a GraphDef, or larger than any real one.
            google.protobuf.message.DecodeError: it, or a node that had to be parsed, is malformed.
        """
        graph, functions = self._parsed(start, stop) if stop - start <= MAX_PARSED_BYTES else self._scanned(start, stop)
        self._graphs.append(graph)
        found = graph.count(self._graph_ops)
        self._variables += [_variable(node) for node in found if node.op != _RESTORE]
        self._restores += _resolve(graph, found)
        for function in functions:
            self._restores += _resolve(function, function.count(self._function_ops))

    def _parsed(self, start: int, stop: int) -> tuple[_Scope, Iterator[_Scope]]:
        graph = nodes_pb2.Graph.FromString(bytes(self._walker.data[start:stop]))
        functions = (_ParsedScope(each.node_def, each.signature.name) for each in graph.library.function)
        return _ParsedScope(graph.node), functions

    def _scanned(self, start: int, stop: int) -> tuple[_Scope, Iterator[_Scope]]:
        walker = self._walker
        functions = (
            _ScannedScope(walker, *function, _FUNCTION_NODE)
            for library in walker.messages(start, stop, _GRAPH_LIBRARY)
            for function in walker.messages(*library, _LIBRARY_FUNCTION)
        )
        return _ScannedScope(walker, start, stop, _GRAPH_NODE), functions

    def function_called_by(self, name: str) -> str:
        """Returns the name of the function that the graph's node `name` calls, "" when it calls none.

        Raises:
            google.protobuf.message.DecodeError: the node is malformed.
        """
        for graph in self._graphs:
            for node in graph.named({name.encode()}):
                return node.attr["f"].func.name if "f" in node.attr else ""
        return ""

    def result(self) -> Graph:
        """Returns the sum.

        Raises:
            wire.WireError: a node has no op.
            UnicodeDecodeError: an op's name is not UTF-8.
        """
        if b"" in self._graph_ops or b"" in self._function_ops:
            raise wire.WireError("a node has no op")
        return Graph(
            graph_ops={op.decode(): count for op, count in sorted(self._graph_ops.items())},
            function_ops={op.decode(): count for op, count in sorted(self._function_ops.items())},
            variables=tuple(sorted(self._variables, key=lambda variable: variable.name)),
            restores=tuple(self._restores),
        )


def _resolve(scope: _Scope, notable: Iterable[NodeDef]) -> list[Restore]:
    """Finds the constants with the keys that the restoring nodes read, among their neighbours."""
    nodes = [node for node in notable if node.op == _RESTORE]
    if not nodes:
        return []
    wanted = {_producer(node, 1).encode() for node in nodes}
    keys = {node.name: _string_constant(node) for node in scope.named(wanted)}
    function = scope.function
    return [Restore(_producer(node, 0), function, keys.get(_producer(node, 1))) for node in nodes]


def _whole(node: nodes_pb2.Node) -> NodeDef:
    # Protobuf keeps the fields that it does not know.
    return NodeDef.FromString(node.SerializeToString())


def _producer(node: NodeDef, index: int) -> str:
    """The name of the node that gives input `index`: "a" for "a", "a:0" and, in functions, "a:output:0"."""
    return node.input[index].partition(":")[0] if index < len(node.input) else ""


def _string_constant(node: NodeDef) -> frozenset[str] | None:
    if node.op != "Const" or "value" not in node.attr:
        return None
    return frozenset(value.decode("utf-8", "replace") for value in node.attr["value"].tensor.string_val)


def _variable(node: NodeDef) -> Variable:
    return Variable(node.name, dtype_name(node.attr["dtype"].type), shape_of(node.attr["shape"].shape))
