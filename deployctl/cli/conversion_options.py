"""Options that the commands of `convert` share, and the parameters that all of them take."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from deployctl.cli import completion
from deployctl.cli.options import Output, OutputOption, ReasonOption, TimeoutOption
from deployctl.domain.saved_model import SERVE_TAG
from deployctl.errors import UsageError

OutOption = Annotated[
    Path | None,
    typer.Option("--out", metavar="PATH", help="Where the result goes; default: the source's name, here."),
]
PublishOption = Annotated[
    str | None,
    typer.Option("--publish", metavar="MODEL", help="Publish the result.", autocompletion=completion.models),
]
SampleOption = Annotated[
    list[str] | None,
    typer.Option("--sample", metavar="NAME=VALUE", help="Compare with this input, as in predict --input; repeatable."),
]
SamplesOption = Annotated[int, typer.Option("--samples", min=1, help="Rows that source and result are compared with.")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Of the random inputs.")]
RtolOption = Annotated[float | None, typer.Option("--rtol", min=0, help="Relative tolerance; default: 1e-4.")]
AtolOption = Annotated[float | None, typer.Option("--atol", min=0, help="Absolute tolerance; default: 1e-5.")]

InputsOption = Annotated[
    list[str] | None,
    typer.Option("--inputs", metavar="NAME=TENSOR", help="Inputs by tensor; default: what the outputs need."),
]
OutputsOption = Annotated[
    list[str] | None,
    typer.Option("--outputs", metavar="NAME=TENSOR", help="Outputs by tensor; default: the only candidate."),
]
BuilderOption = Annotated[
    str | None,
    typer.Option(metavar="MODULE:FUNCTION", help="Function that makes the checkpoint's graph; default: .meta file."),
]
CustomOption = Annotated[
    list[str] | None,
    typer.Option(metavar="MODULE:NAME", help="A class or function that the Keras file needs; repeatable."),
]
LambdaOption = Annotated[
    list[str] | None,
    typer.Option(metavar="LAYER", help="Run the code of this Lambda layer, which is in the file; repeatable."),
]
TagsOption = Annotated[
    list[str] | None,
    typer.Option(metavar="TAGS", help="The one MetaGraph to take, with commas between its tags; default: serve."),
]
MetaGraphsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--tags",
        metavar="TAGS",
        help="The MetaGraph to take, with commas between its tags; default: serve. Of several, which are written "
        "under their own tags; repeatable.",
    ),
]
SignatureOption = Annotated[str, typer.Option(help="Name of the result's signature.")]
RenameInputOption = Annotated[
    list[str] | None, typer.Option("--rename-input", metavar="OLD=NEW", help="Another name for an input; repeatable.")
]
RenameOutputOption = Annotated[
    list[str] | None, typer.Option("--rename-output", metavar="OLD=NEW", help="Another name for an output; repeatable.")
]
LabelsOption = Annotated[
    Path | None,
    typer.Option("--labels", metavar="FILE", help="One label a line; adds the output SCORES_label, the best one."),
]
ScoresOption = Annotated[str | None, typer.Option("--scores", metavar="OUTPUT", help="The output with the scores.")]
ClassifyOption = Annotated[bool, typer.Option("--classify", help="Add a Classify signature over tf.Example.")]
RegressOption = Annotated[bool, typer.Option("--regress", help="Add a Regress signature over tf.Example.")]
DecodeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--decode-image", metavar="INPUT[=HxW]", help="Take this input as the bytes of image files; repeatable."
    ),
]
ScaleOption = Annotated[float, typer.Option("--scale", help="What the pixels, 0 to 255, are multiplied with.")]
OffsetOption = Annotated[float, typer.Option("--offset", help="What is added to the pixels then.")]
VocabularyOption = Annotated[
    Path | None, typer.Option("--vocabulary", metavar="FILE", help="One word a line: take string tokens, not ids.")
]
VectorsOption = Annotated[
    Path | None,
    typer.Option("--vectors", metavar="FILE", help="Word vectors, text or .npy: take string tokens, not vectors."),
]
UnknownOption = Annotated[
    str, typer.Option("--unknown", metavar="WORD", help="Vector of unknown words: mean, zeros, or that of a word.")
]
TokensOption = Annotated[
    str | None, typer.Option("--tokens", metavar="INPUT", help="The input that takes tokens; default: the only one.")
]
LengthOption = Annotated[int, typer.Option("--length", min=0, help="Tokens in a row; default: the model's own.")]


@dataclass(frozen=True, slots=True)
class Ending:
    """What all commands of `convert` are told of the comparison, and of where the result goes."""

    out: Path | None
    publish: str | None
    sample: list[str] | None
    samples: int
    seed: int
    rtol: float | None
    atol: float | None
    reason: str
    timeout: str | None
    output: Output


def _ending(
    out: OutOption = None,
    publish: PublishOption = None,
    sample: SampleOption = None,
    samples: SamplesOption = 3,
    seed: SeedOption = 0,
    rtol: RtolOption = None,
    atol: AtolOption = None,
    reason: ReasonOption = "",
    timeout: TimeoutOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Has the parameters of `Ending` as options."""


def with_ending(command: Callable[..., None]) -> Callable[..., None]:
    """Returns `command` with options in place of its parameter `ending`."""
    shared = inspect.signature(_ending, eval_str=True).parameters
    own = [each for each in inspect.signature(command, eval_str=True).parameters.values() if each.name != "ending"]

    @functools.wraps(command)
    def converting(**given: Any) -> None:
        ending = Ending(**{field.name: given.pop(field.name) for field in fields(Ending)})
        command(**given, ending=ending)

    parameters = [*own, *shared.values()]
    # What Typer reads the options from.
    converting.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    converting.__annotations__ = {each.name: each.annotation for each in parameters}
    return converting


def tag_sets(words: Sequence[str] | None) -> tuple[tuple[str, ...], ...]:
    """Returns the tags of each MetaGraph that `--tags` names, those of the one that is served by default.

    Raises:
        UsageError: a tag has no name, or two have the same tags.
    """
    found = [tuple(word.split(",")) for word in words or (SERVE_TAG,)]
    for tags in found:
        if not all(tags):
            raise UsageError(f"the tags {','.join(tags)!r} are not TAG,TAG")
        if [set(each) for each in found].count(set(tags)) > 1:
            raise UsageError(f"two MetaGraphs would have the tags {','.join(tags)!r}")
    return tuple(found)


def renames(option: str, words: Sequence[str] | None) -> dict[str, str]:
    """Returns OLD=NEW words, which may also stand in one with commas between, as a mapping.

    Raises:
        UsageError: a word is not OLD=NEW, or one name occurs twice.
    """
    found: dict[str, str] = {}
    for word in (each for words_ in words or () for each in words_.split(",")):
        old, equals, new = word.partition("=")
        if not equals or not old or not new:
            raise UsageError(f"{option} {word!r} is not NAME=NAME")
        if old in found:
            raise UsageError(f"{option} gives {old!r} twice")
        found[old] = new
    return found


def named_paths(words: Sequence[str]) -> dict[str, Path]:
    """Returns NAME=PATH words by name; a path without a name has its last part without suffix.

    Raises:
        UsageError: a name or a path is empty, or two have one name.
    """
    found: dict[str, Path] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if equals and not (name and text):
            raise UsageError(f"{word!r} is not NAME=PATH")
        path = Path(text if equals else word)
        key = name if equals else stem(path)
        if key in found:
            raise UsageError(f"two models have the name {key!r}: give them others, NAME=PATH")
        found[key] = path
    return found


def stem(path: Path) -> str:
    """Returns the last part of `path`, without its suffix, as a name that clients can write."""
    # A published version is a number in its model's directory.
    name = path.resolve().parent.name if path.name.isdecimal() else path.resolve().name
    for suffix in (".index", ".meta", ".ckpt", ".keras", ".h5", ".hdf5", ".pb", ".tflite"):
        name = name.removesuffix(suffix)
    return "".join(letter if letter.isalnum() or letter in "_-" else "_" for letter in name) or "model"


def images(words: Sequence[str] | None) -> dict[str, str]:
    """Returns INPUT[=HxW] words by input, "" where no size is given.

    Raises:
        UsageError: a size is not HxW.
    """
    found: dict[str, str] = {}
    for word in words or ():
        name, equals, size = word.partition("=")
        sides = size.split("x")
        if equals and (len(sides) != 2 or not all(side.isdecimal() and int(side) for side in sides)):
            raise UsageError(f"--decode-image {word!r} is not INPUT=HEIGHTxWIDTH")
        found[name] = size
    return found


def own(prefix: str, tensors: Mapping[str, str]) -> dict[str, str]:
    """Returns the tensors, by name, that are meant for the source `prefix`: PREFIX/NAME, or a NAME without any."""
    found = {name: tensor for name, tensor in tensors.items() if "/" not in name}
    head = f"{prefix}/"
    return found | {name.removeprefix(head): tensor for name, tensor in tensors.items() if name.startswith(head)}
