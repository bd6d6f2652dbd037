"""What `inspect` tells of frozen graphs, checkpoints, Keras files and TFLite files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deployctl.cli.options import Output
from deployctl.cli.render import size, write, write_json
from deployctl.cli.saved_model_reports import stored_tensors
from deployctl.cli.tensor_listing import (
    spec_documents,
    stored_documents,
    write_ops,
    write_sides,
    write_signatures,
    write_stored,
)
from deployctl.domain.manifest import signatures_to_json
from deployctl.domain.saved_model import TensorSpec

if TYPE_CHECKING:
    from deployctl.savedmodel.source import Source

DESCRIBE_TIMEOUT_S = 60.0


def tell_frozen_graph(source: Source, *, ops: bool, variables: bool, output: Output) -> None:
    """Writes what a frozen graph holds."""
    from deployctl.savedmodel.frozen import control_flow, read_frozen

    graph = read_frozen(source.path)
    if output is Output.NAME:
        for name in graph.outputs:
            write(name)
        return
    stored = [(spec.tensor, spec.tensor, spec, count) for spec, count in graph.constants]
    if output is Output.JSON:
        document = {
            "path": source.path,
            "kind": source.kind.value,
            "size_bytes": graph.size_bytes,
            "producer": graph.producer,
            "min_consumer": graph.min_consumer,
            "inputs": spec_documents(graph.inputs),
            "outputs": spec_documents(graph.outputs),
            "ops": dict(graph.ops),
            "graph_ops": dict(graph.graph_ops),
            "function_ops": dict(graph.function_ops),
            "control_flow": control_flow(graph.ops),
            "tensors": stored_documents(stored),
        }
        write_json("inspect", document)
        return
    write(f"{source.path}   frozen graph, {size(graph.size_bytes)}, graph version {graph.producer}")
    write_sides(graph.inputs, graph.outputs)
    write_ops(graph.ops, inside_functions=sum(graph.function_ops.values()), every=ops)
    write_stored(stored, every=variables, noun="constants")


def tell_checkpoint(source: Source, *, ops: bool, variables: bool, output: Output) -> None:
    """Writes what a checkpoint stores, and what the graph beside it takes and gives."""
    from deployctl.savedmodel.checkpoint import read_checkpoint
    from deployctl.savedmodel.meta_file import read_meta_file

    checkpoint = read_checkpoint(source.path)
    meta = read_meta_file(source.path.with_name(f"{source.path.name}.meta")) if checkpoint.has_graph else None
    stored = stored_tensors(source)
    if output is Output.NAME:
        for tensor in checkpoint.tensors:
            write(tensor.name)
    elif output is Output.JSON:
        document = {
            "path": source.path,
            "kind": source.kind.value,
            "format": checkpoint.format,
            "size_bytes": checkpoint.total_bytes,
            "has_graph": checkpoint.has_graph,
            "inputs": spec_documents(meta.inputs if meta else {}),
            "outputs": spec_documents(meta.outputs if meta else {}),
            "ops": dict(meta.ops if meta else {}),
            "tensors": stored_documents(stored),
        }
        write_json("inspect", document)
    else:
        graph = "with its graph" if checkpoint.has_graph else "without a graph (no .meta file)"
        form = {"v1": "first", "v2": "second"}[checkpoint.format]
        write(f"{source.path}   checkpoint of the {form} format, {size(checkpoint.total_bytes)}, {graph}")
        if meta:
            write_sides(meta.inputs, meta.outputs)
            write_ops(meta.ops, inside_functions=sum(meta.function_ops.values()), every=ops)
        write_stored(stored, every=variables)


def tell_keras(source: Source, *, ops: bool, variables: bool, output: Output) -> None:
    """Writes what a Keras file holds; TensorFlow reads it, in a process of its own."""
    from deployctl.convert.child import call

    request = {"verb": "describe_keras", "path": str(source.path)}
    found = call("deployctl.convert.worker", request, timeout_s=DESCRIBE_TIMEOUT_S)
    if output is Output.NAME:
        for layer in found["layers"]:
            write(layer["name"])
        return
    if output is Output.JSON:
        write_json("inspect", {"path": source.path, "kind": source.kind.value} | found)
        return
    weights, versions = found["weights"], found["versions"]
    by = f", written by Keras {versions['keras']}" if "keras" in versions else ""
    write(f"{source.path}   Keras {found['class']} {found['name']!r}, {size(found['size_bytes'])}{by}")
    for layer in found["layers"]:
        shape = "" if layer["shape"] is None else str(TensorSpec(layer["dtype"] or "", tuple(layer["shape"])))
        write(f"layer       {layer['class']} {layer['name']}  {shape}".rstrip())
    if found["lambdas"]:
        write(f"lambda      {', '.join(name or 'a function' for name in found['lambdas'])}: runs code of the file")
    stored = [
        (each["name"], each["name"], TensorSpec(each["dtype"], tuple(each["shape"])), each["size"]) for each in weights
    ]
    write_stored(stored, every=variables, noun="weights")
    del ops


def tell_tflite(source: Source, *, ops: bool, variables: bool, output: Output) -> None:
    """Writes what a TFLite file declares and holds."""
    from deployctl.savedmodel.tflite import read_tflite

    model = read_tflite(source.path)
    stored = [(each.spec.tensor, each.spec.tensor, each.spec, each.size) for each in model.tensors]
    if output is Output.NAME:
        for key in model.signatures:
            write(key)
    elif output is Output.JSON:
        document = {
            "path": source.path,
            "kind": source.kind.value,
            "version": model.version,
            "description": model.description,
            "size_bytes": model.size_bytes,
            "quantized": any(each.quantized for each in model.tensors),
            "signatures": signatures_to_json(model.signatures),
            "ops": dict(model.ops),
            "tensors": stored_documents(stored),
        }
        write_json("inspect", document)
    else:
        quantized = sum(each.quantized for each in model.tensors)
        state = f", {quantized} of {len(stored)} tensors quantized" if quantized else ""
        write(f"{source.path}   TFLite version {model.version}, {size(model.size_bytes)}{state}")
        write_signatures(model.signatures)
        write_ops(model.ops, inside_functions=0, every=ops)
        write_stored(stored, every=variables)
