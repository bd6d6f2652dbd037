"""Lifts the variables and tables out of a graph of TensorFlow 1, so that a function of TensorFlow 2 can hold them."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from deployctl.convert.part import Part, Tensors
from deployctl.errors import ConversionError

if TYPE_CHECKING:
    from deployctl.convert.graph_source import LoadedGraph

v1 = tf.compat.v1
_REFERENCES = ("Variable", "VariableV2")
_TABLES = ("HashTableV2", "HashTable")
_FROM_FILE = "InitializeTableFromTextFileV2"


def lifted(loaded: LoadedGraph, name: str, source_bytes: int) -> Part:
    """Returns what of the graph the outputs need, as a part.

    Raises:
        ConversionError: it needs a table of a kind that cannot be lifted.
    """
    needed = _needed(loaded)
    variables = _variables(loaded, needed)
    tables = _tables(loaded, needed)
    references = {f"{node.name}:0" for node in needed.node if node.op in _REFERENCES}
    fetches = [tensor.name for tensor in loaded.outputs.values()]
    fed = {tensor.name for tensor in loaded.inputs.values()}
    definition, used = _without(needed, {*variables, *tables, *fed}), _taken(needed)

    def function(values: Tensors) -> dict[str, Any]:
        replaced = {loaded.inputs[given].name: tensor for given, tensor in values.items()}
        for node, variable in variables.items():
            replaced[node] = variable.value() if node in references else _captured(variable.handle, variable)
        replaced |= {node: _captured(table.resource_handle) for node, table in tables.items()}
        computed = [name for name in fetches if name not in replaced]
        results = tf.graph_util.import_graph_def(
            definition,
            input_map={name: tensor for name, tensor in replaced.items() if name in used},
            return_elements=computed,
            name="",
        )
        found = replaced | dict(zip(computed, results, strict=True))
        return {given: found[name] for given, name in zip(loaded.outputs, fetches, strict=True)}

    return Part(
        name=name,
        inputs={
            given: tf.TensorSpec(tensor.shape, tensor.dtype, name=given) for given, tensor in loaded.inputs.items()
        },
        outputs=tuple(loaded.outputs),
        function=function,
        reference=loaded.run,
        resources=tuple(tables.values()),
        variables=tuple(variables.values()),
        source_bytes=source_bytes,
    )


def _needed(loaded: LoadedGraph) -> Any:
    """The nodes that lead from the inputs, which are left out, to the outputs."""
    graph = loaded.session.graph.as_graph_def()
    by_name = {node.name: node for node in graph.node}
    fed = {tensor.op.name for tensor in loaded.inputs.values()}
    waiting, seen = [tensor.op.name for tensor in loaded.outputs.values()], set()
    found = v1.GraphDef(versions=graph.versions, library=graph.library)
    while waiting:
        name = waiting.pop()
        if name in seen or name in fed:
            continue
        seen.add(name)
        found.node.append(by_name[name])
        found.node[-1].device = ""
        # Where a node shall run; the variables beside which it ran are gone.
        found.node[-1].attr.pop("_class", None)
        waiting += [taken.lstrip("^").partition(":")[0] for taken in by_name[name].input]
    return found


def _variables(loaded: LoadedGraph, definition: Any) -> dict[str, Any]:
    graph, found = loaded.session.graph, {}
    for node in definition.node:
        if node.op in _REFERENCES:
            found[f"{node.name}:0"] = tf.Variable(loaded.session.run(f"{node.name}:0"), name=node.name)
        elif node.op == "VarHandleOp":
            with graph.as_default():
                read = tf.raw_ops.ReadVariableOp(
                    resource=graph.get_tensor_by_name(f"{node.name}:0"), dtype=tf.as_dtype(node.attr["dtype"].type)
                )
            found[f"{node.name}:0"] = tf.Variable(loaded.session.run(read), name=node.name)
    return found


def _captured(handle: Any, variable: Any = None) -> Any:
    """The resource inside of the function that is being traced; importing does not take it there by itself."""
    graph = v1.get_default_graph()
    if variable is not None:
        graph.watch_variable(variable)
    return graph.capture(handle)


def _without(definition: Any, names: Collection[str]) -> Any:
    left_out = {name.partition(":")[0] for name in names}
    found = v1.GraphDef(versions=definition.versions, library=definition.library)
    for node in definition.node:
        if node.name not in left_out:
            kept = [taken for taken in node.input if not (taken.startswith("^") and taken[1:] in left_out)]
            found.node.append(node)
            found.node[-1].ClearField("input")
            found.node[-1].input.extend(kept)
    return found


def _taken(definition: Any) -> set[str]:
    """The tensors that a node takes; importing refuses replacements of others."""
    return {taken if ":" in taken else f"{taken}:0" for node in definition.node for taken in node.input}


def _tables(loaded: LoadedGraph, definition: Any) -> dict[str, Any]:
    return {
        f"{node.name}:0": _table(loaded, node) for node in definition.node if node.op in _TABLES or _other_table(node)
    }


def _other_table(node: Any) -> bool:
    if node.op in ("MutableHashTableV2", "MutableDenseHashTableV2", "AnonymousHashTable"):
        raise ConversionError(f"the table {node.name} is a {node.op}, which cannot be carried over", kind="unsupported")
    return False


def _table(loaded: LoadedGraph, node: Any) -> Any:
    graph, session = loaded.session.graph, loaded.session
    key, value = (tf.as_dtype(node.attr[name].type) for name in ("key_dtype", "value_dtype"))
    for operation in graph.get_operations():
        if operation.type == _FROM_FILE and operation.inputs[0].op.name == node.name:
            initializer = tf.lookup.TextFileInitializer(
                session.run(operation.inputs[1]).decode(),
                key,
                operation.get_attr("key_index"),
                value,
                operation.get_attr("value_index"),
                vocab_size=None if operation.get_attr("vocab_size") < 0 else operation.get_attr("vocab_size"),
                delimiter=operation.get_attr("delimiter").decode(),
            )
            return tf.lookup.StaticHashTable(initializer, default_value=_zero(value))
    with graph.as_default():
        exported = tf.raw_ops.LookupTableExportV2(
            table_handle=graph.get_tensor_by_name(f"{node.name}:0"), Tkeys=key, Tvalues=value
        )
    keys, values = session.run([exported.keys, exported.values])
    # Order is not kept by a table; sorting keeps exports of the same model the same.
    order = sorted(range(len(keys)), key=lambda index: keys[index])
    initializer = tf.lookup.KeyValueTensorInitializer(keys[order], values[order], key, value)
    return tf.lookup.StaticHashTable(initializer, default_value=_zero(value))


def _zero(dtype: Any) -> Any:
    return "" if dtype == tf.string else 0
