"""`inspect`: what a model file or directory declares, as text and as JSON; nothing of it is run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, assert_never

import typer

from deployctl.cli.options import Output, OutputOption
from deployctl.cli.render import write, write_json
from deployctl.cli.saved_model_reports import tell_saved_model
from deployctl.cli.source_reports import DESCRIBE_TIMEOUT_S, tell_checkpoint, tell_frozen_graph, tell_keras, tell_tflite
from deployctl.cli.tensor_listing import plural, spec_document
from deployctl.domain.saved_model import Signature, TensorSpec
from deployctl.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from deployctl.protos.tensor_pb2 import TensorProto
    from deployctl.savedmodel.source import Source
    from deployctl.savedmodel.statistics import Statistics


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

    _check_alone(values=values, pbtxt=pbtxt, graph=graph, output=output)
    source = identify(path)
    if pbtxt is not None:
        _write_text(source, pbtxt)
    elif graph is not None:
        _draw(source, graph)
    elif values is not None:
        _write_values(source, values, output)
    else:
        _summary(source)(source, ops=ops, variables=variables, output=output)


def _check_alone(*, values: str | None, pbtxt: Path | None, graph: Picture | None, output: Output) -> None:
    given = [
        option for option, value in (("--values", values), ("--pbtxt", pbtxt), ("--graph", graph)) if value is not None
    ]
    if len(given) > 1:
        raise UsageError(f"{given[0]} and {given[1]} ask for different things: give one of them")
    if given and given != ["--values"] and output is not Output.TABLE:
        raise UsageError(f"{given[0]} has a form of its own, and none for --output {output.value}")


def _summary(source: Source) -> Callable[..., None]:
    from deployctl.savedmodel.source import SourceKind

    match source.kind:
        case SourceKind.SAVED_MODEL:
            return tell_saved_model
        case SourceKind.FROZEN_GRAPH:
            return tell_frozen_graph
        case SourceKind.CHECKPOINT:
            return tell_checkpoint
        case SourceKind.KERAS | SourceKind.KERAS_H5:
            return tell_keras
        case SourceKind.TFLITE:
            return tell_tflite
    assert_never(source.kind)


def _write_values(source: Source, name: str, output: Output) -> None:
    spec, found = _figures(source, name)
    if output is Output.JSON:
        write_json("values", {"path": source.path, "name": name, **spec_document(spec), **asdict(found)})
        return
    write(f"{name}   {TensorSpec(spec.dtype, spec.shape)}   {plural(found.count, 'element')}")
    if found.minimum is not None:
        write(f"range       {found.minimum:g} to {found.maximum:g}")
        write(f"mean        {found.mean:g}   standard deviation {found.deviation:g}")
        write(f"zeros       {found.zeros}   not finite {found.not_finite}")
    more = ", …" if found.count > len(found.first) else ""
    write(f"first       {', '.join(str(value) for value in found.first)}{more}")


def _figures(source: Source, name: str) -> tuple[TensorSpec, Statistics]:
    from deployctl.savedmodel.source import SourceKind
    from deployctl.savedmodel.statistics import statistics

    if source.kind in (SourceKind.KERAS, SourceKind.KERAS_H5):
        return _keras_figures(source, name)
    spec, tensor = _value(source, name)
    return spec, statistics(spec, tensor)


def _keras_figures(source: Source, name: str) -> tuple[TensorSpec, Statistics]:
    from deployctl.convert.child import call
    from deployctl.savedmodel.statistics import Statistics

    request = {"verb": "describe_keras", "path": str(source.path), "weight": name}
    found = call("deployctl.convert.worker", request, timeout_s=DESCRIBE_TIMEOUT_S)["weight"]
    if found is None:
        raise _absent(source, "weight", name)
    figures = found["statistics"]
    return TensorSpec(found["dtype"], tuple(found["shape"]), name), Statistics(
        **figures | {"first": tuple(figures["first"])}
    )


def _value(source: Source, name: str) -> tuple[TensorSpec, TensorProto]:
    from deployctl.savedmodel import frozen, tflite
    from deployctl.savedmodel.checkpoint import read_checkpoint
    from deployctl.savedmodel.source import SourceKind

    if source.kind in (SourceKind.FROZEN_GRAPH, SourceKind.TFLITE):
        constant = tflite.constant if source.kind is SourceKind.TFLITE else frozen.constant
        found = constant(source.path, name)
        if found is None:
            raise _absent(source, "constant", name)
        return found
    inside = source.kind is SourceKind.SAVED_MODEL
    checkpoint = read_checkpoint(source.path / "variables" / "variables" if inside else source.path)
    tensor = checkpoint.find(name)
    return tensor.spec, checkpoint.value(tensor)


def _absent(source: Source, noun: str, name: str) -> NotFoundError:
    return NotFoundError(f"{source.path} has no {noun} {name!r}", hint=f"deployctl inspect {source.path} --variables")


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
