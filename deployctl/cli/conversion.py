"""`convert`: whatever models are kept in becomes a SavedModel, a frozen graph, a TFLite or an ONNX file."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from deployctl.cli import conversion_options as options
from deployctl.cli.conversion_options import Ending, images, named_paths, renames, stem, with_ending
from deployctl.cli.conversion_run import convert_and_tell
from deployctl.cli.rearrangement import signatures, tagged
from deployctl.errors import UsageError

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
    convert_and_tell(
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
    convert_and_tell(
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
    convert_and_tell(
        context,
        ending,
        _named_graphs(graphs, prefix),
        inputs=renames("--inputs", inputs),
        outputs=renames("--outputs", outputs),
        separate=separate,
        bundle=len(graphs) > 1 or prefix is not None,
        signature=signature,
        kinds=("frozen_graph",),
    )


def _named_graphs(graphs: Sequence[Path], prefix: str | None) -> dict[str, Path]:
    names = prefix.split(",") if prefix is not None else [stem(graph) for graph in graphs]
    if len(names) != len(graphs):
        raise UsageError(f"--prefix {prefix} names {len(names)} graphs, and there are {len(graphs)}")
    if not all(names):
        raise UsageError(f"--prefix {prefix!r} holds an empty name")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        others = ",".join(f"{name}{place}" for place, name in enumerate(names, start=1))
        raise UsageError(
            f"two graphs have the name {twice!r}: name them with --prefix",
            hint=f"deployctl convert frozen {' '.join(map(str, graphs))} --prefix {others}",
        )
    named = next((graph for graph in graphs if "=" in str(graph) and not graph.exists()), None)
    if named is not None:
        raise UsageError(
            f"{named} does not exist, and names of graphs are given with --prefix",
            hint="deployctl convert frozen --help",
        )
    return dict(zip(names, graphs, strict=True))


@convert_app.command()
@with_ending
def freeze(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(help="SavedModel of TensorFlow 1 or 2, checkpoint or Keras model.")],
    ending: Ending,
    signature: Annotated[str | None, typer.Option(help="Keep only this signature of a SavedModel.")] = None,
    tags: options.MetaGraphsOption = None,
    inputs: options.InputsOption = None,
    outputs: options.OutputsOption = None,
    builder: options.BuilderOption = None,
) -> None:
    """Make constants of a model's variables, and leave out what only training needs.

    The result is a SavedModel, or one frozen graph where --out ends with .pb.
    """
    convert_and_tell(
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
    batch: Annotated[
        int, typer.Option(min=0, help="Rows that the file always takes at once; default: any number.")
    ] = 0,
    signature: Annotated[str | None, typer.Option(help="Which signature of a SavedModel.")] = None,
    tags: options.TagsOption = None,
) -> None:
    """Convert a model to TFLite; its answers are compared in the TFLite interpreter."""
    if representative is not None and quantize is not Quantization.INT8:
        raise UsageError(f"--representative is for --quantize int8, not {quantize.value}")
    from deployctl.savedmodel.source import SourceKind, identify
    from deployctl.savedmodel.tflite import read_tflite

    back = identify(path).kind is SourceKind.TFLITE
    if back and quantize is not Quantization.FLOAT:
        raise UsageError(f"--quantize {quantize.value} is for what becomes a TFLite file, and {path} is one")
    rounded = quantize
    if back and any(tensor.quantized for tensor in read_tflite(path).tensors):
        rounded = Quantization.INT8
    convert_and_tell(
        context,
        ending,
        {stem(path): path},
        result=None if back else "tflite",
        quantization=quantize.value,
        representative=representative,
        batch=batch,
        source_signature=signature,
        tags=tags,
        tolerances=_TOLERANCES[rounded],
    )


@convert_app.command()
@with_ending
def onnx(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(help="SavedModel, Keras model, frozen graph or checkpoint.")],
    ending: Ending,
    signature: Annotated[str | None, typer.Option(help="Which signature of a SavedModel.")] = None,
    tags: options.TagsOption = None,
) -> None:
    """Convert a model to ONNX, with tf2onnx, which has to be installed."""
    convert_and_tell(context, ending, {stem(path): path}, result="onnx", source_signature=signature, tags=tags)


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
    builder: options.BuilderOption = None,
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
    convert_and_tell(
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
        builder=builder,
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


for command in (signatures, tagged):
    convert_app.command()(command)
