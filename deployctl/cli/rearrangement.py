"""`convert signatures` and `convert tagged`: what a SavedModel is called by, and loaded by."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deployctl.cli import conversion_options as options
from deployctl.cli.conversion_options import Ending, named_paths, renames, stem, tag_sets, with_ending
from deployctl.cli.conversion_run import convert_and_tell
from deployctl.errors import UsageError


@with_ending
def tagged(
    context: typer.Context,
    models: Annotated[
        list[str],
        typer.Argument(metavar="TAGS=PATH...", help="Models of any kind, with commas between the tags of one."),
    ],
    ending: Ending,
    frozen: Annotated[bool, typer.Option("--frozen", help="Make constants of the variables.")] = False,
    custom: options.CustomOption = None,
    allow_lambda: options.LambdaOption = None,
) -> None:
    """Put models into one SavedModel, each as a MetaGraph that is loaded by its own tags.

    Servers load the one tagged "serve" unless they are told other tags. Weights that are the same are stored once.
    """
    paths = named_paths(models)
    if any("=" not in word or word.endswith("=") for word in models):
        raise UsageError("give TAGS=PATH for each model", hint="deployctl convert tagged --help")
    convert_and_tell(
        context,
        ending,
        paths,
        meta_graphs=tag_sets(tuple(paths)),
        keeps_signatures=True,
        freeze=frozen,
        custom=custom,
        allow_lambda=allow_lambda,
    )


@with_ending
def signatures(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(help="SavedModel directory.")],
    ending: Ending,
    tags: options.MetaGraphsOption = None,
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

    Of several MetaGraphs the one with --tags is taken; it is tagged "serve" in the result. Several --tags keep as
    many, each with its own tags. What no signature needs, such as what training needs, is left out.
    """
    merged = dict(_merge(word) for word in merge or ())
    convert_and_tell(
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
