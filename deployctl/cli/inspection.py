"""`inspect`: what a model file or directory declares, as text and as JSON; nothing of it is run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, assert_never

import typer

from deployctl.cli.options import Output, OutputOption
from deployctl.cli.render import size, write, write_json
from deployctl.domain.manifest import signatures_to_json
from deployctl.domain.saved_model import MetaGraph, SavedModel, Signature, TensorSpec
from deployctl.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from deployctl.savedmodel.source import Source

_OPS_SHOWN = 8
_LARGEST_SHOWN = 5
_DESCRIBE_TIMEOUT_S = 60.0


class Picture(StrEnum):
    """How the signatures are drawn."""

    DOT = "dot"
    SVG = "svg"


def register(app: typer.Typer) -> None:
    """Adds the command to `app`."""
    app.command()(inspect)


def inspect(
    path: Annotated[
        Path, typer.Argument(help="SavedModel directory, frozen graph, checkpoint prefix, Keras or TFLite file.")
    ],
    ops: Annotated[bool, typer.Option("--ops", help="List every op with its number of occurrences.")] = False,
    variables: Annotated[
        bool, typer.Option("--variables", help="List the variables, and every stored tensor with its size.")
    ] = False,
    values: Annotated[
        str | None, typer.Option(metavar="NAME", help="Statistics and first values of one stored tensor.")
    ] = None,
    pbtxt: Annotated[
        Path | None, typer.Option(metavar="FILE", help='Write the graph as text to this file; "-" is stdout.')
    ] = None,
    graph: Annotated[Picture | None, typer.Option(help="Draw the signatures, on stdout.")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show what a model declares.

    Signatures, ops, variables, sizes and assets; nothing of it is run.
    """
    from deployctl.savedmodel.source import identify

    source = identify(path)
    if pbtxt is not None:
        _write_text(source, pbtxt)
    elif graph is not None:
        _draw(source, graph)
    elif values is not None:
        _write_values(source, values, output)
    else:
        _summary(source)(source, ops=ops, variables=variables, output=output)


def write_signatures(signatures: Mapping[str, Signature]) -> None:
    """Writes signatures with one line for each tensor."""
    for key, signature in signatures.items():
        write(f"signature   {key}   {signature.method or 'no method'}")
        rows = [("in", name, spec, name in signature.optional_inputs) for name, spec in signature.inputs.items()]
        rows += [("out", name, spec, False) for name, spec in signature.outputs.items()]
        width = max((len(row[1]) for row in rows), default=0)
        for side, name, spec, optional in rows:
            write(f"  {side:<4} {name:<{width}}  {spec}{'  optional' if optional else ''}  {spec.tensor}".rstrip())


def _summary(source: Source) -> Callable[..., None]:
    from deployctl.savedmodel.source import SourceKind

    match source.kind:
        case SourceKind.SAVED_MODEL:
            return _saved_model
        case SourceKind.FROZEN_GRAPH:
            return _frozen_graph
        case SourceKind.CHECKPOINT:
            return _checkpoint
        case SourceKind.KERAS | SourceKind.KERAS_H5:
            return _keras
        case SourceKind.TFLITE:
            return _tflite
    assert_never(source.kind)


def _saved_model(source: Source, *, ops: bool, variables: bool, output: Output) -> None:
    from deployctl.savedmodel.reader import ProtobufSavedModelReader

    model = ProtobufSavedModelReader().read(source.path)
    if output is Output.TABLE:
        write_inspection(source.path, model, ops=ops, variables=variables)
        stored = _stored_tensors(source)
        if stored:
            write("")
            _write_stored(stored, every=variables)
    elif output is Output.NAME:
        for graph in model.meta_graphs:
            for key in graph.callable_signatures:
                write(key)
    else:
        document = {"path": source.path, "kind": source.kind.value} | inspection_document(model)
        write_json("inspect", document | {"tensors": _stored_documents(_stored_tensors(source))})


def write_inspection(path: Path, model: SavedModel, *, ops: bool, variables: bool) -> None:
    """Writes what `model` declares; `ops` and `variables` in full where asked for."""
    write(f"{path}   saved_model.{model.format}, {_plural(len(model.meta_graphs), 'MetaGraph')}")
    for graph in model.meta_graphs:
        write("")
        tags = ", ".join(graph.tags) or "none"
        write(f"tags        {tags}   written by TensorFlow {graph.tensorflow_version or 'unknown'}")
        write_signatures(graph.signatures)
        _write_ops(graph.ops, inside_functions=sum(graph.function_ops.values()), every=ops)
        write(f"variables   {len(graph.variables) or 'none'}")
        if variables:
            for variable in graph.variables:
                write(f"            {variable.name}  {TensorSpec(variable.dtype, variable.shape)}")
        write(f"assets      {', '.join(graph.assets) or 'none'}")


def inspection_document(model: SavedModel) -> dict[str, Any]:
    """Returns what `model` declares as JSON values."""
    return {
        "format": model.format,
        "schema_version": model.schema_version,
        "meta_graphs": [_graph_document(graph) for graph in model.meta_graphs],
    }


def _graph_document(graph: MetaGraph) -> dict[str, Any]:
    from deployctl.savedmodel.frozen import control_flow

    return {
        "tags": list(graph.tags),
        "tensorflow_version": graph.tensorflow_version,
        "signatures": signatures_to_json(graph.signatures),
        "ops": dict(graph.ops),
        "graph_ops": dict(graph.graph_ops),
        "function_ops": dict(graph.function_ops),
        "control_flow": control_flow(graph.ops),
        "variables": [
            {"name": each.name, "dtype": each.dtype, "shape": None if each.shape is None else list(each.shape)}
            for each in graph.variables
        ],
        "assets": list(graph.assets),
    }


def _frozen_graph(source: Source, *, ops: bool, variables: bool, output: Output) -> None:
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
            "inputs": _spec_documents(graph.inputs),
            "outputs": _spec_documents(graph.outputs),
            "ops": dict(graph.ops),
            "graph_ops": dict(graph.graph_ops),
            "function_ops": dict(graph.function_ops),
            "control_flow": control_flow(graph.ops),
            "tensors": _stored_documents(stored),
        }
        write_json("inspect", document)
        return
    write(f"{source.path}   frozen graph, {size(graph.size_bytes)}, graph version {graph.producer}")
    _write_sides(graph.inputs, graph.outputs)
    _write_ops(graph.ops, inside_functions=sum(graph.function_ops.values()), every=ops)
    _write_stored(stored, every=variables, noun="constants")


def _checkpoint(source: Source, *, ops: bool, variables: bool, output: Output) -> None:
    from deployctl.savedmodel.checkpoint import read_checkpoint

    checkpoint = read_checkpoint(source.path)
    meta = _meta_candidates(source.path) if checkpoint.has_graph else None
    inputs, outputs = meta or ({}, {})
    stored = _stored_tensors(source)
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
            "inputs": _spec_documents(inputs),
            "outputs": _spec_documents(outputs),
            "tensors": _stored_documents(stored),
        }
        write_json("inspect", document)
    else:
        graph = "with its graph" if checkpoint.has_graph else "without a graph (no .meta file)"
        form = {"v1": "first", "v2": "second"}[checkpoint.format]
        write(f"{source.path}   checkpoint of the {form} format, {size(checkpoint.total_bytes)}, {graph}")
        if meta:
            _write_sides(inputs, outputs)
        _write_stored(stored, every=variables)
    del ops


def _keras(source: Source, *, ops: bool, variables: bool, output: Output) -> None:
    from deployctl.convert.child import call

    request = {"verb": "describe_keras", "path": str(source.path)}
    found = call("deployctl.convert.worker", request, timeout_s=_DESCRIBE_TIMEOUT_S)
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
    _write_stored(stored, every=variables, noun="weights")
    del ops


def _tflite(source: Source, *, ops: bool, variables: bool, output: Output) -> None:
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
            "tensors": _stored_documents(stored),
        }
        write_json("inspect", document)
    else:
        quantized = sum(each.quantized for each in model.tensors)
        state = f", {quantized} of {len(stored)} tensors quantized" if quantized else ""
        write(f"{source.path}   TFLite version {model.version}, {size(model.size_bytes)}{state}")
        write_signatures(model.signatures)
        _write_ops(model.ops, inside_functions=0, every=ops)
        _write_stored(stored, every=variables)


# key, name, spec, bytes
_Stored = tuple[str, str, TensorSpec, int]


def _stored_tensors(source: Source) -> list[_Stored]:
    """The tensors of a checkpoint or of a SavedModel's variables, largest first."""
    from deployctl.errors import VariablesMissingError
    from deployctl.savedmodel.checkpoint import read_checkpoint
    from deployctl.savedmodel.source import SourceKind

    inside = source.kind is SourceKind.SAVED_MODEL
    prefix = source.path / "variables" / "variables" if inside else source.path
    try:
        tensors = read_checkpoint(prefix).tensors
    except VariablesMissingError:
        if not inside:
            raise
        return []
    rows = [(tensor.key, tensor.name, tensor.spec, tensor.size) for tensor in tensors]
    return sorted(rows, key=lambda row: (-row[3], row[0]))


def _write_stored(stored: Sequence[_Stored], *, every: bool, noun: str = "stored") -> None:
    total = sum(row[3] for row in stored)
    write(f"{noun:<11} {_plural(len(stored), 'tensor')}, {size(total)}")
    shown = stored if every else stored[:_LARGEST_SHOWN]
    width = max((len(row[1]) for row in shown), default=0)
    for _, name, spec, count in shown:
        write(f"            {name:<{width}}  {size(count):>7}  {spec}")
    if len(shown) < len(stored):
        write(f"            and {len(stored) - len(shown)} smaller ones; --variables lists them")


def _stored_documents(stored: Sequence[_Stored]) -> list[dict[str, Any]]:
    return [
        {"key": key, "name": name, **_spec_document(spec), "size_bytes": count} for key, name, spec, count in stored
    ]


def _spec_document(spec: TensorSpec) -> dict[str, Any]:
    return {"dtype": spec.dtype, "shape": None if spec.shape is None else list(spec.shape)}


def _spec_documents(specs: Mapping[str, TensorSpec]) -> dict[str, Any]:
    return {name: _spec_document(spec) for name, spec in specs.items()}


def _write_sides(inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]) -> None:
    for side, specs in (("in", inputs), ("out", outputs)):
        for name, spec in specs.items():
            shown = str(spec) if spec.shape is not None or not spec.dtype else spec.dtype
            write(f"  {side:<4} {name}  {shown if spec.dtype else ''}".rstrip())


def _write_ops(ops: Mapping[str, int], *, inside_functions: int, every: bool) -> None:
    from deployctl.savedmodel.frozen import control_flow

    library = f", {inside_functions} of them in functions" if inside_functions else ""
    frequent = "" if every else _most_frequent(ops)
    write(f"ops         {sum(ops.values())} of {_plural(len(ops), 'kind')}{library}{frequent}")
    if every:
        for op, count in ops.items():
            write(f"            {op} {count}")
    branches = control_flow(ops)
    if branches:
        write(f"control     {', '.join(f'{op} {count}' for op, count in branches.items())}")


def _meta_candidates(prefix: Path) -> tuple[dict[str, TensorSpec], dict[str, TensorSpec]]:
    from deployctl.savedmodel.meta_file import read_meta_file

    return read_meta_file(prefix.with_name(f"{prefix.name}.meta"))


def _write_values(source: Source, name: str, output: Output) -> None:
    from deployctl.savedmodel.statistics import statistics

    spec, tensor = _value(source, name)
    found = statistics(spec, tensor)
    if output is Output.JSON:
        write_json("values", {"path": source.path, "name": name, **_spec_document(spec), **asdict(found)})
        return
    write(f"{name}   {TensorSpec(spec.dtype, spec.shape)}   {_plural(found.count, 'element')}")
    if found.minimum is not None:
        write(f"range       {found.minimum:g} to {found.maximum:g}")
        write(f"mean        {found.mean:g}   standard deviation {found.deviation:g}")
        write(f"zeros       {found.zeros}   not finite {found.not_finite}")
    more = ", …" if found.count > len(found.first) else ""
    write(f"first       {', '.join(str(value) for value in found.first)}{more}")


def _value(source: Source, name: str) -> tuple[TensorSpec, Any]:
    from deployctl.savedmodel.checkpoint import read_checkpoint
    from deployctl.savedmodel.frozen import constant_bytes
    from deployctl.savedmodel.source import SourceKind

    if source.kind is SourceKind.FROZEN_GRAPH:
        found = constant_bytes(source.path, name)
        if found is None:
            raise NotFoundError(
                f"{source.path} has no constant {name!r}", hint=f"deployctl inspect {source.path} --variables"
            )
        return found
    if source.kind not in (SourceKind.SAVED_MODEL, SourceKind.CHECKPOINT):
        raise UsageError(f"--values reads SavedModels, checkpoints and frozen graphs, and {source.path} is none")
    inside = source.kind is SourceKind.SAVED_MODEL
    checkpoint = read_checkpoint(source.path / "variables" / "variables" if inside else source.path)
    tensor = checkpoint.find(name)
    return tensor.spec, checkpoint.value(tensor)


def _write_text(source: Source, file: Path) -> None:
    from deployctl.savedmodel.text_dump import pbtxt

    text = pbtxt(source)
    if str(file) == "-":
        write(text.rstrip("\n"))
        return
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--pbtxt cannot write {file}: {error.strerror}") from error


def _draw(source: Source, picture: Picture) -> None:
    from deployctl.savedmodel import picture as drawing

    draw = drawing.svg if picture is Picture.SVG else drawing.dot
    write(draw(source.path.name, _signatures(source)).rstrip("\n"))


def _signatures(source: Source) -> Mapping[str, Signature]:
    from deployctl.savedmodel.frozen import read_frozen
    from deployctl.savedmodel.reader import ProtobufSavedModelReader
    from deployctl.savedmodel.source import SourceKind
    from deployctl.savedmodel.tflite import read_tflite

    if source.kind is SourceKind.SAVED_MODEL:
        model = ProtobufSavedModelReader().read(source.path)
        several = len(model.meta_graphs) > 1
        return {
            f"{key} [{', '.join(graph.tags)}]" if several else key: signature
            for graph in model.meta_graphs
            for key, signature in graph.callable_signatures.items()
        }
    if source.kind is SourceKind.TFLITE:
        return read_tflite(source.path).signatures
    if source.kind is SourceKind.FROZEN_GRAPH:
        graph = read_frozen(source.path)
        return {source.path.name: Signature("", graph.inputs, graph.outputs)}
    raise UsageError(f"{source.path} has no signatures to draw: a {source.kind.value.replace('_', ' ')} has none")


def _most_frequent(ops: Mapping[str, int]) -> str:
    frequent = sorted(ops, key=lambda op: (-ops[op], op))[:_OPS_SHOWN]
    more = ", …" if len(ops) > _OPS_SHOWN else ""
    return f": {', '.join(frequent)}{more}" if frequent else ""


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
