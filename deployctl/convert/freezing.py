"""Freezes models: variables become constants, and what only training needs is gone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import tensorflow as tf

from deployctl.convert.part import Part, Tensors
from deployctl.errors import ConversionError

v1 = tf.compat.v1


def frozen(part: Part) -> Part:
    """Returns `part` with constants for its variables; tables stay tables."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    original = part.traced()
    # Dictionaries are flattened in key order; the tables that the model uses come after the inputs.
    inputs, outputs = sorted(part.inputs), sorted(part.outputs)
    concrete = convert_variables_to_constants_v2(original)
    captured = {inner.name: handle for handle, inner in original.graph.captures}
    shapes = {name: tensor.shape for name, tensor in original.structured_outputs.items()}
    tables = [captured[tensor.name] for tensor in concrete.inputs[len(inputs) :]]

    def function(values: Tensors) -> dict[str, Any]:
        results = concrete(*[values[name] for name in inputs], *tables)
        found = dict(zip(outputs, tf.nest.flatten(results), strict=True))
        for name, tensor in found.items():
            tensor.set_shape(shapes[name])
        return found

    return replace(part, function=function, variables=())


def write_graph(part: Part, file: Path) -> None:
    """Writes the frozen `part` as a GraphDef whose placeholders and outputs have the names that clients use.

    Raises:
        ConversionError: it has tables, whose contents a GraphDef alone cannot hold, or names that clash.
    """
    if part.resources:
        raise ConversionError(
            "a frozen graph cannot hold the tables of this model: write a SavedModel, to a directory",
            kind="unsupported",
        )
    clash = sorted(set(part.inputs) & set(part.outputs))
    if clash:
        raise ConversionError(
            f"{clash[0]!r} names an input and an output, and a graph has one tensor of a name: rename one", kind="usage"
        )
    flat = frozen(part)
    graph = tf.Graph()
    with graph.as_default():
        inputs = {name: v1.placeholder(spec.dtype, spec.shape, name=name) for name, spec in sorted(part.inputs.items())}
        with tf.name_scope("model"):
            results = flat.function(inputs)
        for name, tensor in results.items():
            tf.identity(tensor, name=name)
    definition = _inlined(graph, sorted(part.inputs), sorted(part.outputs))
    file.write_bytes(definition.SerializeToString(deterministic=True))


def _inlined(graph: Any, inputs: list[str], outputs: list[str]) -> Any:
    """The graph without function calls, as what reads frozen graphs expects it."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    def imported(*values: Any) -> Any:
        replaced = {f"{name}:0": value for name, value in zip(inputs, values, strict=True)}
        return tf.graph_util.import_graph_def(
            graph.as_graph_def(), input_map=replaced, return_elements=[f"{name}:0" for name in outputs], name=""
        )

    specs = [
        tf.TensorSpec(graph.get_tensor_by_name(f"{name}:0").shape, graph.get_tensor_by_name(f"{name}:0").dtype)
        for name in inputs
    ]
    flat = convert_variables_to_constants_v2(
        tf.function(imported, input_signature=specs, autograph=False).get_concrete_function()
    )
    final = tf.Graph()
    with final.as_default():
        fed = {
            tensor.name: v1.placeholder(tensor.dtype, tensor.shape, name=name)
            for name, tensor in zip(inputs, flat.inputs, strict=True)
        }
        results = tf.graph_util.import_graph_def(
            flat.graph.as_graph_def(),
            input_map=fed,
            return_elements=[tensor.name for tensor in flat.outputs],
            name="model",
        )
        for name, tensor in zip(outputs, results, strict=True):
            tf.identity(tensor, name=name)
    return v1.graph_util.extract_sub_graph(final.as_graph_def(), [*outputs, *inputs])
