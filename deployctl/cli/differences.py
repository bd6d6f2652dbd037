"""`diff`: what differs between two versions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from deployctl.cli.options import Output, OutputOption, ReferenceArgument, TargetOption, session
from deployctl.cli.references import detail_of
from deployctl.cli.render import size, write, write_json
from deployctl.documents.versions import diff_document

if TYPE_CHECKING:
    from deployctl.domain.comparison import Change


def register(app: typer.Typer) -> None:
    """Adds the command to `app`."""
    app.command()(diff)


def diff(
    context: typer.Context,
    before: ReferenceArgument,
    after: ReferenceArgument,
    target: TargetOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Tell what differs between two versions.

    Signatures as clients see them, ops, files and size.
    """
    from deployctl.operations.compare import diff as compare

    with session(context).open() as deployment:
        result = compare(detail_of(deployment, before, target), detail_of(deployment, after, target))
    sizes = [each.manifest.size_bytes if each.manifest else None for each in (result.before, result.after)]
    groups: dict[str, tuple[Change, ...]] = {
        "signatures": result.signatures,
        "ops": result.ops,
        "files": result.files,
    }
    names = [f"{each.model}@{each.version}" for each in (result.before, result.after)]
    if output is Output.NAME:
        for each in (change for changes in groups.values() for change in changes):
            write(each.subject)
        return
    if output is Output.JSON:
        write_json("diff", diff_document(result))
        return
    if result.identical:
        write(f"{names[0]} and {names[1]} hold the same bytes")
        return
    if sizes[0] is not None and sizes[1] is not None:
        write(f"size        {size(sizes[0])} -> {size(sizes[1])}")
    for group, changes in groups.items():
        if not changes:
            write(f"{group:<11} the same")
        for index, each in enumerate(changes):
            heading = group if index == 0 else ""
            write(f"{heading:<11} {each.subject}: {each.before or 'absent'} -> {each.after or 'absent'}")
