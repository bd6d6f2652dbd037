"""`convert`: whatever models are kept in becomes a SavedModel, a frozen graph, a TFLite or an ONNX file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deployctl.cli import conversion_options as options
from deployctl.cli.conversion_options import Ending, images, named_paths, own, renames, stem, with_ending
from deployctl.cli.options import Output, session
from deployctl.cli.render import size, write, write_json
from deployctl.errors import UsageError

if TYPE_CHECKING:
    from deployctl.convert.request import ConversionRequest, SourceRequest
    from deployctl.convert.run import Converted
    from deployctl.operations.publish import Published

_TIMEOUT_S = 3600.0

convert_app = typer.Typer(
    help="Turn models into SavedModels and back, and hold each result to its source.", no_args_is_help=True
)


class Quantization(StrEnum):
    """What numbers a TFLite file computes with."""

    FLOAT = "float"
    FLOAT16 = "float16"
    DYNAMIC = "dynamic"
    INT8 = "int8"


# Rounding to 11 or 8 bits moves every value; these are of what it moved the tests' models by, with room.
_TOLERANCES = {
    Quantization.FLOAT: (1e-4, 1e-5),
    Quantization.FLOAT16: (1e-2, 1e-2),
    Quantization.DYNAMIC: (5e-2, 5e-2),
    Quantization.INT8: (1e-1, 1e-1),
}


def register(app: typer.Typer) -> None:
    """Adds the commands to `app`."""
    app.add_typer(convert_app, name="convert")


@convert_app.command()
@with_ending
def keras(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A .keras or .h5 file.")],
    ending: Ending,
    frozen: Annotated[
        bool, typer.Option("--frozen", help="Constants for variables; --out NAME.pb: one graph.")
    ] = False,
    signature: options.SignatureOption = "serving_default",
    custom: options.CustomOption = None,
    allow_lambda: options.LambdaOption = None,
    rename_input: options.RenameInputOption = None,
    rename_output: options.RenameOutputOption = None,
    labels: options.LabelsOption = None,
    scores: options.ScoresOption = None,
    decode_image: options.DecodeOption = None,
    scale: options.ScaleOption = 1.0,
    offset: options.OffsetOption = 0.0,
    vocabulary: options.VocabularyOption = None,
    vectors: options.VectorsOption = None,
    unknown: options.UnknownOption = "mean",
    tokens: options.TokensOption = None,
    length: options.LengthOption = 0,
    classify: options.ClassifyOption = False,
    regress: options.RegressOption = False,
) -> None:
    """Convert a Keras model, with steps before and after it where they are asked for."""
    _convert(
        context,
        ending,
        {stem(file): file},
        freeze=frozen,
        signature=signature,
        custom=custom,
        allow_lambda=allow_lambda,
        rename_inputs=renames("--rename-input", rename_input),
        rename_outputs=renames("--rename-output", rename_output),
        labels=labels,
        scores=scores,
        images=images(decode_image),
        scale=scale,
        offset=offset,
        vocabulary=vocabulary,
        vectors=vectors,
        unknown=unknown,
        tokens=tokens,
        length=length,
        classify=classify,
        regress=regress,
        kinds=("keras", "keras_h5"),
    )


@convert_app.command()
@with_ending
def checkpoint(
    context: typer.Context,
    prefix: Annotated[Path, typer.Argument(help="The checkpoint's files without .index, .meta or .data-…")],
    ending: Ending,
    inputs: options.InputsOption = None,
    outputs: options.OutputsOption = None,
    builder: options.BuilderOption = None,
    frozen: Annotated[
        bool, typer.Option("--frozen", help="Constants for variables; --out NAME.pb: one graph.")
    ] = False,
    signature: options.SignatureOption = "serving_default",
    classify: options.ClassifyOption = False,
    regress: options.RegressOption = False,
    labels: options.LabelsOption = None,
    scores: options.ScoresOption = None,
) -> None:
    """Convert a checkpoint, with the graph of its .meta file or one that your code makes.

    What only training needs is left out.
    """
    _convert(
        context,
        ending,
        {stem(prefix): prefix},
        inputs=renames("--inputs", inputs),
        outputs=renames("--outputs", outputs),
        builder=builder,
        freeze=frozen,
        signature=signature,
        classify=classify,
        regress=regress,
        labels=labels,
        scores=scores,
        kinds=("checkpoint",),
    )


@convert_app.command()
@with_ending
def frozen(
    context: typer.Context,
    graphs: Annotated[list[Path], typer.Argument(metavar="GRAPH...", help="Frozen graphs, .pb files.")],
    ending: Ending,
    prefix: Annotated[
        str | None, typer.Option(metavar="A,B", help="A name for each graph, with commas between; default: its file's.")
    ] = None,
    separate: Annotated[
        bool, typer.Option("--separate", help="A signature for each graph, by its name, and not one for all.")
    ] = False,
    inputs: options.InputsOption = None,
    outputs: options.OutputsOption = None,
    signature: options.SignatureOption = "serving_default",
) -> None:
    """Convert frozen graphs into one SavedModel.

    Several share inputs of one name, and each output says whose it is: PREFIX, or PREFIX_OUTPUT where a graph has
    more. --inputs and --outputs are for all graphs; PREFIX/NAME=TENSOR is for one.
    """
    names = prefix.split(",") if prefix is not None else [stem(graph) for graph in graphs]
    if len(names) != len(graphs):
        raise UsageError(f"--prefix {prefix} names {len(names)} graphs, and there are {len(graphs)}")
    words = [f"{name}={path}" for name, path in zip(names, graphs, strict=True)]
    _convert(
        context,
        ending,
        named_paths(words),
        inputs=renames("--inputs", inputs),
        outputs=renames("--outputs", outputs),
        separate=separate,
        bundle=len(graphs) > 1 or prefix is not None,
        signature=signature,
        kinds=("frozen_graph",),
    )


@convert_app.command()
@with_ending
def freeze(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(help="SavedModel of TensorFlow 1 or 2, checkpoint or Keras model.")],
    ending: Ending,
    signature: Annotated[str | None, typer.Option(help="Keep only this signature of a SavedModel.")] = None,
    tags: options.TagsOption = "serve",
    inputs: options.InputsOption = None,
    outputs: options.OutputsOption = None,
    builder: options.BuilderOption = None,
) -> None:
    """Make constants of a model's variables, and leave out what only training needs.

    The result is a SavedModel, or one frozen graph where --out ends with .pb.
    """
    _convert(
        context,
        ending,
        {stem(path): path},
        freeze=True,
        keeps_signatures=True,
        source_signature=signature,
        tags=tags,
        inputs=renames("--inputs", inputs),
        outputs=renames("--outputs", outputs),
        builder=builder,
    )


@convert_app.command()
@with_ending
def tflite(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(help="Any model; a TFLite file becomes a SavedModel again.")],
    ending: Ending,
    quantize: Annotated[Quantization, typer.Option(help="What the file computes with.")] = Quantization.FLOAT,
    representative: Annotated[
        Path | None, typer.Option(metavar="FILE", help="For int8: a .npz of inputs by name, a row for each example.")
    ] = None,
    signature: Annotated[str | None, typer.Option(help="Which signature of a SavedModel.")] = None,
    tags: options.TagsOption = "serve",
) -> None:
    """Convert a model to TFLite; its answers are compared in the TFLite interpreter."""
    if representative is not None and quantize is not Quantization.INT8:
        raise UsageError(f"--representative is for --quantize int8, not {quantize.value}")
    from deployctl.savedmodel.source import SourceKind, identify

    back = identify(path).kind is SourceKind.TFLITE
    if back and quantize is not Quantization.FLOAT:
        raise UsageError(f"--quantize {quantize.value} is for what becomes a TFLite file, and {path} is one")
    _convert(
        context,
        ending,
        {stem(path): path},
        result=None if back else "tflite",
        quantization=quantize.value,
        representative=representative,
        source_signature=signature,
        tags=tags,
        tolerances=_TOLERANCES[quantize],
    )


@convert_app.command()
@with_ending
def onnx(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(help="SavedModel, Keras model, frozen graph or checkpoint.")],
    ending: Ending,
    signature: Annotated[str | None, typer.Option(help="Which signature of a SavedModel.")] = None,
    tags: options.TagsOption = "serve",
) -> None:
    """Convert a model to ONNX, with tf2onnx, which has to be installed."""
    _convert(context, ending, {stem(path): path}, result="onnx", source_signature=signature, tags=tags)


@convert_app.command()
@with_ending
def bundle(
    context: typer.Context,
    models: Annotated[
        list[str],
        typer.Argument(metavar="[NAME=]PATH...", help="Models of any kind, each under its name or its file's."),
    ],
    ending: Ending,
    shared_input: Annotated[
        str | None, typer.Option(metavar="NAME", help="What the only input of each model is called from now on.")
    ] = None,
    separate: Annotated[
        bool, typer.Option("--separate", help="A signature for each model, by its name, and not one for all.")
    ] = False,
    frozen: Annotated[bool, typer.Option("--frozen", help="Make constants of the variables.")] = False,
    signature: options.SignatureOption = "serving_default",
    inputs: options.InputsOption = None,
    outputs: options.OutputsOption = None,
    custom: options.CustomOption = None,
    allow_lambda: options.LambdaOption = None,
    rename_input: options.RenameInputOption = None,
    rename_output: options.RenameOutputOption = None,
    decode_image: options.DecodeOption = None,
    scale: options.ScaleOption = 1.0,
    offset: options.OffsetOption = 0.0,
    vocabulary: options.VocabularyOption = None,
    vectors: options.VectorsOption = None,
    unknown: options.UnknownOption = "mean",
    tokens: options.TokensOption = None,
    length: options.LengthOption = 0,
) -> None:
    """Put models into one SavedModel that answers one request.

    Inputs of one name are shared, and so are a vocabulary and word vectors before them. A model with one output
    gives it under its own name, others as NAME_OUTPUT. Weights that are the same are stored once.
    """
    _convert(
        context,
        ending,
        named_paths(models),
        bundle=True,
        separate=separate,
        freeze=frozen,
        shared_input=shared_input,
        signature=signature,
        inputs=renames("--inputs", inputs),
        outputs=renames("--outputs", outputs),
        custom=custom,
        allow_lambda=allow_lambda,
        rename_inputs=renames("--rename-input", rename_input),
        rename_outputs=renames("--rename-output", rename_output),
        images=images(decode_image),
        scale=scale,
        offset=offset,
        vocabulary=vocabulary,
        vectors=vectors,
        unknown=unknown,
        tokens=tokens,
        length=length,
    )


@convert_app.command()
@with_ending
def signatures(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(help="SavedModel directory.")],
    ending: Ending,
    tags: options.TagsOption = "serve",
    rename: Annotated[
        list[str] | None, typer.Option(metavar="OLD=NEW", help="Another name for a signature; repeatable.")
    ] = None,
    merge: Annotated[
        list[str] | None, typer.Option(metavar="NEW=A,B", help="One signature that answers for several; repeatable.")
    ] = None,
    drop: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Leave a signature out; repeatable.")] = None,
    rename_input: options.RenameInputOption = None,
    rename_output: options.RenameOutputOption = None,
    classify: options.ClassifyOption = False,
    regress: options.RegressOption = False,
    labels: options.LabelsOption = None,
    scores: options.ScoresOption = None,
) -> None:
    """Write a SavedModel again, with other signatures.

    Of several MetaGraphs the one with --tags is taken; it is tagged "serve" in the result. What no signature needs,
    such as what training needs, is left out.
    """
    merged = dict(_merge(word) for word in merge or ())
    _convert(
        context,
        ending,
        {stem(path): path},
        tags=tags,
        keeps_signatures=True,
        rename_signatures=renames("--rename", rename),
        merge=merged,
        drop=drop,
        rename_inputs=renames("--rename-input", rename_input),
        rename_outputs=renames("--rename-output", rename_output),
        classify=classify,
        regress=regress,
        labels=labels,
        scores=scores,
        kinds=("saved_model",),
    )


def _merge(word: str) -> tuple[str, tuple[str, ...]]:
    name, equals, members = word.partition("=")
    if not equals or not name or "," not in members:
        raise UsageError(f"--merge {word!r} is not NEW=NAME,NAME")
    return name, tuple(members.split(","))


def _convert(
    context: typer.Context,
    ending: Ending,
    models: Mapping[str, Path],
    *,
    result: str | None = None,
    kinds: tuple[str, ...] | None = None,
    tolerances: tuple[float, float] = (1e-4, 1e-5),
    **more: Any,
) -> None:
    """Does what all commands end with: converts, publishes where that is asked for, and tells."""
    from deployctl.convert.request import Result
    from deployctl.convert.run import convert
    from deployctl.domain.duration import parse_duration

    chosen = Result(result) if result is not None else _result(ending)
    if chosen is not Result.SAVED_MODEL and ending.publish is not None:
        raise UsageError(f"--publish takes a SavedModel, and the result is {_noun(chosen)}")
    request = _request(ending, models, chosen, tolerances, kinds, more)
    timeout_s = parse_duration(ending.timeout) if ending.timeout else _TIMEOUT_S
    with _destination(ending, models, chosen) as destination:
        converted = convert(request, destination, timeout_s=timeout_s)
        published = _published(context, ending, request, destination) if ending.publish is not None else None
    _tell(ending, request, converted, published)


def _result(ending: Ending) -> Any:
    from deployctl.convert.request import Result

    return Result.GRAPH if ending.out is not None and ending.out.suffix == ".pb" else Result.SAVED_MODEL


def _request(
    ending: Ending,
    models: Mapping[str, Path],
    result: Any,
    tolerances: tuple[float, float],
    kinds: tuple[str, ...] | None,
    more: dict[str, Any],
) -> ConversionRequest:
    from deployctl.convert.request import ConversionRequest

    about_sources = {
        name: more.pop(name, None) for name in ("inputs", "outputs", "builder", "tags", "source_signature")
    }
    sources = tuple(_source(name, path, kinds, about_sources) for name, path in models.items())
    rtol, atol = (
        given if given is not None else default
        for given, default in zip((ending.rtol, ending.atol), tolerances, strict=True)
    )
    for name in ("labels", "vocabulary", "vectors", "representative"):
        path = more.get(name)
        more[name] = os.path.abspath(path) if path is not None else None
    for name in ("custom", "allow_lambda", "drop"):
        more[name] = tuple(more.get(name) or ())
    return ConversionRequest(
        sources=sources,
        work="",
        result=result,
        samples=ending.samples,
        seed=ending.seed,
        sample=_samples(ending.sample),
        rtol=rtol,
        atol=atol,
        **more,
    )


def _source(name: str, path: Path, kinds: tuple[str, ...] | None, about: Mapping[str, Any]) -> SourceRequest:
    from deployctl.convert.request import SourceRequest
    from deployctl.savedmodel.source import identify

    source = identify(path)
    if kinds is not None and source.kind.value not in kinds:
        noun, wanted = (kind.replace("_h5", "").replace("_", " ") for kind in (source.kind.value, kinds[0]))
        raise UsageError(f"{path} is a {noun}, not a {wanted}", hint=f"deployctl inspect {path}")
    return SourceRequest(
        name=name,
        path=str(source.path.absolute()),
        kind=source.kind.value,
        inputs=own(name, about["inputs"] or {}),
        outputs=own(name, about["outputs"] or {}),
        tags=tuple((about["tags"] or "serve").split(",")),
        signature=about["source_signature"],
        builder=about["builder"],
    )


def _samples(words: list[str] | None) -> dict[str, str]:
    from deployctl.cli.provenance import pairs

    return pairs("--sample", words)


@contextmanager
def _destination(ending: Ending, models: Mapping[str, Path], result: Any) -> Iterator[Path]:
    """Where the result goes: --out, else a place that is gone after publishing, else the source's name here."""
    if ending.out is not None:
        yield ending.out
    elif ending.publish is not None:
        with tempfile.TemporaryDirectory(prefix="deployctl-convert-") as folder:
            yield Path(folder, "export")
    else:
        name = next(iter(models)) if len(models) == 1 else "bundle"
        yield Path(f"{name}{_SUFFIXES.get(str(result), '')}")


_SUFFIXES = {"tflite": ".tflite", "onnx": ".onnx", "graph": ".pb"}


def _published(context: typer.Context, ending: Ending, request: ConversionRequest, export: Path) -> Published:
    from deployctl.convert.run import digest_of
    from deployctl.domain.manifest import Provenance
    from deployctl.domain.names import parse_model_name
    from deployctl.operations.publish import Publish, PublishRequest

    paths = [Path(source.path) for source in request.sources]
    provenance = Provenance(
        source=", ".join(str(path) for path in paths), parents=tuple(digest_of(path) for path in paths)
    )
    asked = PublishRequest(
        export=export, model=parse_model_name(str(ending.publish)), provenance=provenance, reason=ending.reason
    )
    with session(context).open() as deployment:
        return Publish(deployment.repository, deployment.reader, deployment.lineage, deployment.context)(asked)


def _tell(ending: Ending, request: ConversionRequest, converted: Converted, published: Published | None) -> None:
    kept = ending.out is not None or published is None
    if ending.output is Output.JSON:
        write_json("convert", _document(request, converted, published) | {"path": converted.path if kept else None})
        return
    name = f"{published.model}@{published.version}" if published is not None else ""
    if ending.output is Output.NAME:
        write(name or str(converted.path))
        return
    if kept:
        write(f"{converted.path}   {_noun(request.result)}")
    change = f" ({converted.result_bytes / converted.source_bytes:.0%})" if converted.source_bytes else ""
    write(f"size        {size(converted.source_bytes)} -> {size(converted.result_bytes)}{change}")
    if converted.shared_bytes:
        write(f"shared      {size(converted.shared_bytes)} of weights that were there already")
    for key, sides in converted.signatures.items():
        write(f"signature   {key}   {', '.join(sides['inputs'])} -> {', '.join(sides['outputs'])}")
    for each in converted.differences:
        write(f"parity      {each.signature} {each.output}: off by up to {each.largest or 0:.2g}")
    if not converted.differences:
        write("parity      not compared")
    if published is not None:
        state = "published" if published.created else "already published (same bytes)"
        write(f"{name}  {state}   {size(published.size_bytes)}")


def _document(request: ConversionRequest, converted: Converted, published: Published | None) -> dict[str, Any]:
    from deployctl.convert.run import digest_of

    paths = [Path(source.path) for source in request.sources]
    facts = ("signature", "output", "largest", "within")
    return {
        "result": request.result.value,
        "sources": [{"path": path, "digest": digest_of(path)} for path in paths],
        "source_bytes": converted.source_bytes,
        "result_bytes": converted.result_bytes,
        "shared_bytes": converted.shared_bytes,
        "signatures": dict(converted.signatures),
        "parity": [{name: getattr(each, name) for name in facts} for each in converted.differences],
        "golden_requests": converted.recorded,
        "published": {name: getattr(published, name) for name in ("model", "version", "digest", "created")}
        if published is not None
        else None,
    }


def _noun(result: Any) -> str:
    nouns = {"saved_model": "SavedModel", "graph": "frozen graph", "tflite": "TFLite file", "onnx": "ONNX file"}
    return nouns[str(result)]
